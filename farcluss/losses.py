"""Losses as sums over pixels; the caller divides by a global count, so that devices do not change the result."""

import torch
from torch import Tensor
from torch.nn import functional as F

from farcluss.data.base import IGNORE
from farcluss.distributed import all_sum, count_dtype
from farcluss.stages.base import PseudoLabels

OHEM_BINS = 4096


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float32 at least: half-precision inputs are widened, float64 stays."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy per pixel `(B, *S)`, in float32 or wider; 0 where the pixel is ignored.

    Args:
        logits: `(B, C, *S)`.
        masks: `(B, *S)` integer, class index or `IGNORE`.
    """
    return F.cross_entropy(wide(logits), masks.long(), ignore_index=IGNORE, reduction="none")


def hard_pixels(losses: Tensor, masks: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """Online hard example mining: the pixels that count, `(B, *S)` bool.

    Pixels whose true class has a probability of at most `max(threshold, t)` are kept, `t` being the probability of the
    `min_kept`-th hardest pixel of all processes. `t` comes from a histogram of 4096 bins and is rounded up to a bin's
    edge: at most one bin's pixels more than the exact rule are kept.

    Args:
        losses: `(B, *S)`, see `pixel_cross_entropy`.
        masks: `(B, *S)` integer, `IGNORE` counts nowhere.
        threshold: probability below which a pixel is always kept.
        min_kept: smallest number of pixels kept, over all processes; all, when there are fewer.
    """
    valid = masks != IGNORE
    probability = torch.exp(-losses.detach()).nan_to_num(0.0)  # a NaN has no bin; the step will be skipped
    bins = (probability * OHEM_BINS).long().clamp(max=OHEM_BINS - 1)
    counts = torch.zeros(OHEM_BINS, device=losses.device, dtype=count_dtype(losses.device))
    counts = all_sum(counts.index_add_(0, bins.flatten(), valid.flatten().to(counts.dtype)))
    enough = counts.cumsum(0) >= min_kept
    edge = torch.where(enough.any(), (enough.to(torch.uint8).argmax() + 1) / OHEM_BINS, 1.0)
    return valid & (probability <= edge.clamp(min=threshold))


def fuzzy_kl(logits: Tensor, labels: PseudoLabels, pixel_weight: Tensor) -> Tensor:
    """Weighted `sum_i m_i w_i omega(i) KL(q_i || s_i)` of eq. 4 and 8, not yet divided by N.

    Works on the K kept classes alone: `KL = sum_k q_k (log q_k - log s_k)`; no dense one-hot is built. Labels and
    weights are constants: gradients flow to the logits only.

    Args:
        logits: student's, `(B, C, *S)`.
        labels: values and classes `(B, K, *S)`, weight and valid `(B, *S)`.
        pixel_weight: omega(i), `(B, *S)`.
    """
    logits = wide(logits)
    log_probs = logits.gather(1, labels.classes) - logits.logsumexp(1, keepdim=True)
    # Zeroed before use: 0 * NaN of an invalid pixel would be NaN in the backward pass.
    values = torch.where(labels.valid.unsqueeze(1), labels.values, 0).detach().to(logits.dtype)
    weight = torch.where(labels.valid, labels.weight * pixel_weight, 0).detach()
    divergence = (torch.xlogy(values, values) - values * log_probs).sum(1)
    return torch.where(labels.valid, weight * divergence, 0).sum()
