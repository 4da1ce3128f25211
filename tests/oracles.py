"""Float64 NumPy oracles of every equation of the method, and inputs for the tests that use them.

The oracles share no code with the package. They work on rows, one per pixel, and say in plain loops what the package
says in tensor operations: slow and obvious. `rows` turns `(B, C, *S)` into `(pixels, C)`, `(B, *S)` into `(pixels,)`.
"""

from itertools import combinations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.nn import functional

from farcluss.stages.base import Anchors, PseudoLabels

IGNORE = 255
SPACES = [(3, 4), (2, 3, 2)]
PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)


# ---------------------------------------------------------------------------------------------------------- layout


def rows(tensor, channels=True):
    """`(B, C, *S)` as `(pixels, C)`, or without channels `(B, *S)` as `(pixels,)`; floats become float64."""
    array = tensor.detach().cpu()
    array = (array.double() if array.is_floating_point() else array).numpy()
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) if channels else array.reshape(-1)


# ------------------------------------------------------------------------------------------------------- equations


def fuzzy(p, k):
    """Eq. 2, 3: values and classes `(pixels, K)` of probabilities `(pixels, C)`, ties to the lower class."""
    order = np.array([sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))[:k] for row in p])
    kept = np.take_along_axis(p, order, axis=1)
    return kept / kept.sum(axis=1, keepdims=True), order


def dense(values, classes, c):
    """Fuzzy labels as full `(pixels, C)` distributions."""
    q = np.zeros((len(values), c))
    np.put_along_axis(q, classes, values, axis=1)
    return q


def entropy(p):
    """Eq. 5: entropy in units of log C, with 0 log 0 = 0."""
    return np.array([-sum(x * np.log(x) for x in row if x > 0) / np.log(len(row)) for row in p])


def weight(p, form="linear", gamma=1.0, beta=1.0, high_entropy=0.5, gate=False):
    """Eq. 6 and its variants."""
    h = np.clip(entropy(p), 0, 1)
    w = {"linear": 1 - h, "power": (1 - h) ** gamma, "exp": np.exp(-beta * h)}[form]
    return np.where(gate & (h > high_entropy), 0.0, w)


def class_counts(q, valid, count="hard"):
    """N_c: pixels whose largest label is c, or the summed labels of c. `q` is dense."""
    if count == "soft":
        return q[valid].sum(axis=0)
    return np.bincount(q[valid].argmax(axis=1), minlength=q.shape[1]).astype(float)


def pixel_omega(q, omega, apply="argmax"):
    """omega(i) of eq. 8."""
    return omega[q.argmax(axis=1)] if apply == "argmax" else (q * omega).sum(axis=1)


def class_weights(q, valid, eps=1e-6, count="hard", max_weight=None, normalize="none", apply="argmax"):
    """Eq. 7 with the median over present classes, absent classes 1, then clip, then normalize."""
    counts = class_counts(q, valid, count)
    present = counts > 0
    omega = np.ones(q.shape[1])
    if present.any():
        ordered = np.sort(counts[present])
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        omega[present] = median / (counts[present] + eps)
    if max_weight is not None:
        omega = np.minimum(omega, max_weight)
    if normalize == "mean" and present.any():
        omega = omega / pixel_omega(q, omega, apply)[valid].mean()
    return omega


def log_softmax(logits):
    """Log-probabilities of `(pixels, C)`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def kl(q, logits):
    """KL(q || softmax(logits)) of each pixel; classes with q = 0 add nothing."""
    log_s = log_softmax(logits)
    return np.array([sum(x * (np.log(x) - y) for x, y in zip(a, b, strict=True) if x > 0)
                     for a, b in zip(q, log_s, strict=True)])  # fmt: skip


def weighted_kl(q, logits, valid, pixel_weight):
    """Eq. 4, 8 before the division by N."""
    return (kl(q, logits) * pixel_weight)[valid].sum()


def true_log_probs(logits, masks):
    """Log-probability of the true class of every pixel that is not ignored."""
    kept = masks != IGNORE
    return log_softmax(logits[kept])[np.arange(kept.sum()), masks[kept].astype(int)]


def cross_entropy(logits, masks):
    """Summed cross-entropy over the pixels that are not ignored, and their number."""
    found = true_log_probs(logits, masks)
    return -found.sum(), float(len(found))


def ohem(logits, masks, threshold, min_kept, slack=0.0):
    """Cross-entropy over hard pixels; `slack` is the share by which losses may be below the bound of `min_kept`."""
    losses = -true_log_probs(logits, masks)
    if len(losses) <= min_kept:
        return losses.sum(), float(len(losses))
    bound = np.sort(losses)[-min_kept] * (1 - slack) if min_kept else np.inf
    hard = losses[(losses >= bound) | (np.exp(-losses) <= threshold)]
    return hard.sum(), float(len(hard))


def cosine(a, b):
    """Cosine of two vectors."""
    return a @ b / np.sqrt((a @ a) * (b @ b))


def confident(classes, confidence, pixel_weight, valid, labeled, least=0.95, min_weight=0.0, include_labeled=False):
    """Which pixels join the contrast."""
    return valid & np.where(labeled, include_labeled, (confidence >= least) & (pixel_weight >= min_weight))


def prototypes(z, classes, chosen):
    """Eq. 9: mean embedding of each class among the chosen pixels."""
    return {c: z[chosen & (classes == c)].mean(axis=0) for c in sorted(set(classes[chosen].tolist()))}


def contrast(z, classes, chosen, repulsion=0.0, mu=None):
    """Eq. 10: loss and mean cosine between prototypes; `mu` fixes the prototypes."""
    mu = prototypes(z, classes, chosen) if mu is None else mu
    pairs = [cosine(mu[a], mu[b]) for a, b in combinations(mu, 2)]
    pull = [1 - cosine(z[i], mu[classes[i]]) for i in np.flatnonzero(chosen)]
    push = np.mean([max(pair, 0.0) for pair in pairs]) if pairs else 0.0
    return (np.mean(pull) if pull else 0.0) + repulsion * push, np.mean(pairs) if pairs else 0.0


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        result[i] = (function(up) - function(down)) / (2 * step)
    return result


# -------------------------------------------------------------- the losses as one would write them, dense and at once


def plain_kl(logits, labels, pixel_weight):
    """Eq. 4, 8 before the division by N, with a dense label for every class of every pixel."""
    q = torch.zeros_like(logits).scatter_(1, labels.classes, labels.values)
    divergence = functional.kl_div(logits.log_softmax(1), q, reduction="none").sum(1)
    return torch.where(labels.valid, pixel_weight * divergence, 0).sum()


def plain_cross_entropy(logits, masks):
    """Summed cross-entropy over the pixels that are not ignored."""
    return functional.nll_loss(logits.log_softmax(1), masks.long(), ignore_index=IGNORE, reduction="sum")


def plain_ohem(logits, masks, threshold, min_kept):
    """Cross-entropy, summed over the pixels kept by a sort of all probabilities; and their number."""
    losses = functional.nll_loss(logits.log_softmax(1), masks.long(), ignore_index=IGNORE, reduction="none")
    known = masks != IGNORE
    probs = torch.exp(-losses.detach())
    hardest = probs[known].sort().values
    bound = hardest[min(min_kept, len(hardest)) - 1].clamp(min=threshold)
    kept = known & (probs <= bound)
    return torch.where(kept, losses, 0).sum(), kept.sum()


# ---------------------------------------------------------------------------------------------------------- inputs


def random_probs(space, b=2, c=5, seed=0, kind="smooth"):
    """Float32 probabilities `(B, C, *S)`: smooth, with exact ties and zeros, or one-hot."""
    draw = np.random.default_rng(seed)
    shape = (b, c, *space)
    if kind == "smooth":
        raw = draw.gamma(0.5, size=shape) + 1e-4
    else:
        raw = draw.integers(0, 3, size=shape).astype(float) if kind == "tied" else np.zeros(shape)
        np.put_along_axis(raw, draw.integers(0, c, size=(b, 1, *space)), 3, axis=1)
    return torch.from_numpy(raw / raw.sum(axis=1, keepdims=True)).float()


def random_labels(space, b=2, c=5, k=3, seed=0, classes=None, dtype=torch.float32):
    """Pseudo-labels, some pixels invalid; `classes` limits which ones are ever the argmax."""
    draw = np.random.default_rng(seed)
    p = rows(random_probs(space, b, c, seed))
    if classes is not None:
        p[np.arange(len(p)), draw.choice(classes, size=len(p))] += 1
    values, found = fuzzy(p / p.sum(axis=1, keepdims=True), k)
    q = np.moveaxis(values.reshape(b, *space, -1), -1, 1)
    entropy, confidence, valid = draw.random((b, *space)), draw.random((b, *space)), draw.random((b, *space)) > 0.3
    return PseudoLabels(
        torch.from_numpy(q.copy()).to(dtype),
        torch.from_numpy(np.moveaxis(found.reshape(b, *space, -1), -1, 1).copy()),
        torch.from_numpy(confidence).to(dtype),
        torch.from_numpy(entropy).to(dtype),
        torch.from_numpy(valid),
    )


def labels_of(probs, k=3):
    """The pseudo-labels of probabilities `(B, C, *S)`, all pixels valid."""
    b, space = len(probs), probs.shape[2:]
    values, found = fuzzy(rows(probs), k)
    fields = [np.moveaxis(each.reshape(b, *space, -1), -1, 1).copy() for each in (values, found)]
    uncertainty = torch.from_numpy(entropy(rows(probs)).reshape(b, *space)).to(probs.dtype)
    valid = torch.ones(b, *space, dtype=torch.bool)
    return PseudoLabels(
        torch.from_numpy(fields[0]).to(probs.dtype), torch.from_numpy(fields[1]), probs.amax(1), uncertainty, valid
    )


def random_logits(space, b=2, c=5, seed=0, dtype=torch.float32, scale=2.0):
    """Logits `(B, C, *S)`."""
    return torch.from_numpy(np.random.default_rng(seed + 100).normal(size=(b, c, *space)) * scale).to(dtype)


def random_masks(space, b=2, c=5, seed=0, dtype=torch.int64):
    """Masks `(B, *S)` with some ignored pixels."""
    draw = np.random.default_rng(seed + 200)
    masks = draw.integers(0, c, size=(b, *space))
    return torch.from_numpy(np.where(draw.random(masks.shape) < 0.3, IGNORE, masks)).to(dtype)


def random_anchors(space, b=2, c=5, seed=0, labeled=True):
    """Anchors around confidence 0.75 and weight 0.5; invalid pixels carry the ignore value as class."""
    draw = np.random.default_rng(seed + 300)
    shape = (b, *space)
    valid = draw.random(shape) > 0.3
    true = (draw.random(shape) > 0.6) & labeled
    confidence = draw.choice([0.5, 0.75, 1.0], size=shape)
    weights = draw.choice([0.25, 0.5, 1.0], size=shape)
    return Anchors(
        torch.from_numpy(np.where(valid, draw.integers(0, c, size=shape), IGNORE)),
        torch.from_numpy(np.where(true, 1, confidence)).float(),
        torch.from_numpy(np.where(true, 1, weights)).float(),
        torch.from_numpy(valid),
        torch.from_numpy(true),
    )


def dense_labels(labels, c):
    """Pseudo-labels as dense rows."""
    return dense(rows(labels.values), rows(labels.classes), c)


def permuted(tensor, axes):
    """`tensor` with its last `len(axes)` axes permuted."""
    lead = tensor.dim() - len(axes)
    return tensor.permute(*range(lead), *(lead + axis for axis in axes)).contiguous()


def moves(space, axes):
    """The two changes of layout that no stage may notice: an extra axis of size 1, and permuted spatial axes."""
    return (lambda t: t.unsqueeze(-1 - len(space))), (lambda t: permuted(t, axes))


@st.composite
def scenes(draw):
    """`(space, axes, b, c, seed)`: a spatial size, a permutation of its axes, batch size, classes and a seed."""
    space = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    axes = draw(st.permutations(range(len(space))))
    return space, tuple(axes), draw(st.integers(1, 2)), draw(st.integers(2, 6)), draw(st.integers(0, 2**20))
