"""float32 for losses and probabilities, independent of the networks' precision."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float32 or wider: half precision is converted, float64 stays."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def wide_softmax(logits: Tensor) -> Tensor:
    """Probabilities of `(B, C, *S)`, in float32 or wider, without a float32 copy of the logits."""
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def safe_log(probs: Tensor) -> Tensor:
    """Logarithm that is finite at 0, so that `0 log 0 = 0`; several times faster than `torch.xlogy`."""
    return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()
