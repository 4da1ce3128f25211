"""Pixel weights that adapt to the batch or to what training has seen: thresholds and percentiles of other methods.

Their statistics are sums over all pixels of all processes, so thresholds are the same everywhere; percentiles are
those of histograms. What is learned over steps is in buffers.
"""

import torch
from torch import Tensor
from torch.nn import functional

from farcluss.plugins.options import NonNegative, Positive, Share, ShareRange
from farcluss.stages.base import PixelWeight, PseudoLabels
from farcluss.tensors.distributed import count_dtype

BINS = 4096
"""Of histograms over [0, 1]: a quantile is exact to a bin."""
FEWEST = 10
"""Pixels of a batch whose mean and variance say something."""
MOST = 255
"""Most classes that a data set may have; buffers per class have so many elements, for classes are not known before."""


def histogram(values: Tensor, valid: Tensor) -> Tensor:
    """Counts `(BINS,)` of the valid ones of `values` `(B, *S)` in [0, 1]."""
    kind = count_dtype(values.device)
    return torch.zeros(BINS, dtype=kind, device=values.device).index_add_(
        0, bins(values).flatten(), valid.flatten().to(kind)
    )


def bins(values: Tensor) -> Tensor:
    """The bin of each value in [0, 1]."""
    return (values * BINS).long().clamp(0, BINS - 1)


def moved(buffer: Tensor, value: Tensor, momentum: float, ok: Tensor) -> None:
    """Move an exponential average to a value, in place, where `ok`; without a host sync."""
    buffer.copy_(torch.where(ok, momentum * buffer + (1 - momentum) * value, buffer))


class SoftThreshold(PixelWeight):
    """Gaussian weights below an adaptive mean of confidence (SoftMatch, Chen et al. 2023).

    `w = exp(-min(p - mu, 0)^2 n^2 / (2 sigma^2))` with the largest probability `p`; `mu` and `sigma^2` are moving
    averages of its mean and variance over the batch, from 1 / C and 1 on.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        momentum: of the moving averages.
        width: n, the larger, the less pixels below the mean weigh.
    """

    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, *, momentum: Share = 0.999, width: Positive = 2.0) -> None:
        super().__init__()
        self.momentum, self.width = momentum, width
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """`(4,)`: number of valid pixels, sums of their confidence and its square, and C times their number."""
        sure = torch.where(labels.valid, labels.confidence, 0).to(count_dtype(labels.confidence.device))
        number = labels.valid.sum().to(sure)
        return torch.stack([number, sure.sum(), sure.square().sum(), classes * number])

    def absorb(self, summed: Tensor) -> None:
        """Move mean and variance."""
        number, total, squares, scaled = summed
        mean = total / number.clamp(min=1)
        variance = (squares - number * mean**2).clamp(min=0) / (number - 1).clamp(min=1)
        ok = number > 1
        self.mean.copy_(torch.where(ok & ~self.started, number / scaled.clamp(min=1), self.mean))
        self.started |= ok
        moved(self.mean, mean, self.momentum, ok)
        moved(self.variance, variance, self.momentum, ok)

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        below = (labels.confidence - self.mean).clamp(max=0)
        scale = self.width**2 / (2 * self.variance.clamp(min=torch.finfo(torch.float32).tiny))
        return torch.exp(-(below**2) * scale)

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """Mean and variance."""
        return {"confidence_mean": self.mean, "confidence_variance": self.variance}


class ClassThresholds(PixelWeight):
    """Weight 1 from a threshold on that rises with training, of each class (FreeMatch, Wang et al. 2023).

    `tau_c = tau m_c / max(m)`: `tau` is a moving average of the largest probabilities, `m_c` one of the mean
    probability of class c; both from 1 / C on. Of a pixel only the kept classes count.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        momentum: of the moving averages.
    """

    threshold: Tensor
    means: Tensor
    started: Tensor

    def __init__(self, *, momentum: Share = 0.999) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("means", torch.zeros(MOST))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """`(MOST + 3,)`: sum of the probability of each class, number of pixels, sum of confidence, C times number."""
        valid = labels.valid.unsqueeze(1)
        kind = count_dtype(valid.device)
        # Values were scaled to a sum of 1; the first of them was the largest probability.
        probs = labels.values * (labels.confidence / labels.values[:, 0]).unsqueeze(1)
        probs = torch.where(valid, probs, 0).to(kind)
        sums = torch.zeros(MOST, dtype=kind, device=valid.device)
        sums.index_add_(0, labels.classes.flatten(), probs.flatten())
        number, sure = valid.sum().to(kind), torch.where(labels.valid, labels.confidence, 0).to(kind).sum()
        return torch.cat([sums, torch.stack([number, sure, classes * number])])

    def absorb(self, summed: Tensor) -> None:
        """Move the averages."""
        sums, (number, sure, scaled) = summed[:MOST], summed[MOST:]
        ok, divisor = number > 0, number.clamp(min=1)
        start = number / scaled.clamp(min=1)
        begun = ok & ~self.started
        known = torch.arange(MOST, device=sums.device) < (scaled / divisor).round()
        self.threshold.copy_(torch.where(begun, start, self.threshold))
        self.means.copy_(torch.where(begun & known, start, self.means))
        self.started |= ok
        moved(self.threshold, sure / divisor, self.momentum, ok)
        moved(self.means, sums / divisor, self.momentum, ok)

    def class_thresholds(self) -> Tensor:
        """`tau_c` `(MOST,)`; those of classes that do not exist are 0."""
        return self.threshold * self.means / self.means.amax().clamp(min=torch.finfo(torch.float32).tiny)

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        return (labels.confidence >= self.class_thresholds()[labels.classes[:, 0]]).to(labels.confidence.dtype)

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The common threshold."""
        return {"threshold": self.threshold}


class LowestEntropy(PixelWeight):
    """Weight 1 for the pixels of lowest entropy, a share of them that grows with training (U2PL, Wang et al. 2022).

    The highest `dropped (1 - progress)` of the batch's entropies are left out.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        dropped: share of pixels left out at the start; at the end none are.
        scaled: multiply by the number of valid pixels over that of kept ones, as the authors' code does beyond a mean
            over these.
    """

    def __init__(self, *, dropped: Share = 0.2, scaled: bool = False) -> None:
        super().__init__()
        self.dropped, self.scaled = dropped, scaled

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """Histogram of the entropies of valid pixels."""
        return histogram(labels.entropy, labels.valid)

    def _kept(self, summed: Tensor) -> Tensor:
        """`(BINS,)` bool: whether pixels of a bin are kept; that in which the quantile lies is."""
        share = 1 - self.dropped * (1 - self.progress.to(summed))
        return summed.cumsum(0) - summed <= share * (summed.sum() - 1)  # as percentiles count, from 0

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        kept = self._kept(summed)
        weight = kept[bins(labels.entropy)].to(labels.entropy.dtype)
        return weight * (summed.sum() / summed.mul(kept).sum().clamp(min=1)).to(weight) if self.scaled else weight

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The entropy up to which pixels are kept."""
        return {"entropy_threshold": self._kept(summed).sum() / BINS}


class DynamicThreshold(PixelWeight):
    """Confidence above a threshold that follows its mean, and more at boundaries (CW-BASS, Tarubinga et al. 2025).

    `T = clamp(base / (1 + exp(-slope (mean p - 1/2))), limits)`; `w = p^gamma N / N_kept + boundary N / N_edge`
    where `p > T`, the second term at boundaries of the labels alone. `N` are the valid pixels over which the loss is a
    mean, so that it is the authors' sum of two means.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        base: threshold twice that of a mean confidence of one half.
        slope: how much it follows the mean.
        limits: smallest and largest threshold.
        gamma: exponent of the confidence.
        boundary: weight of the term at boundaries.
    """

    def __init__(
        self,
        *,
        base: Share = 0.6,
        slope: NonNegative = 0.5,
        limits: ShareRange = (0.3, 0.8),
        gamma: NonNegative = 1.0,
        boundary: NonNegative = 0.5,
    ) -> None:
        super().__init__()
        self.base, self.slope, self.limits, self.gamma, self.boundary = base, slope, limits, gamma, boundary

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """`(2 BINS + 1,)`: histograms of the confidence of valid pixels and of those at boundaries, and its sum."""
        edge = boundaries(labels)
        total = torch.where(labels.valid, labels.confidence, 0).to(count_dtype(edge.device)).sum()
        return torch.cat([histogram(labels.confidence, labels.valid), histogram(labels.confidence, edge), total[None]])

    def threshold(self, summed: Tensor) -> Tensor:
        """T, from the mean confidence."""
        mean = summed[-1] / summed[:BINS].sum().clamp(min=1)
        return (self.base * torch.sigmoid(self.slope * (mean - 0.5))).clamp(*self.limits)

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        sure, whole, edges = labels.confidence, summed[:BINS], summed[BINS : 2 * BINS]
        least = (self.threshold(summed) * BINS).long()  # pixels of the threshold's own bin are not kept
        above = torch.arange(BINS, device=sure.device) > least
        number = whole.sum()
        factors = [(number / counts.mul(above).sum().clamp(min=1)).to(sure) for counts in (whole, edges)]
        kept = above[bins(sure)].to(sure)
        return kept * (sure**self.gamma * factors[0] + self.boundary * factors[1] * boundaries(labels))

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The threshold."""
        return {"threshold": self.threshold(summed)}


class SureShare(PixelWeight):
    """The same weight for all pixels: the share of the batch's pixels whose confidence reaches a threshold.

    As in CutMix-Seg (French et al. 2020) and ClassMix (Olsson et al. 2021): a batch of which the teacher is unsure
    counts less, but every pixel of it does.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        threshold: smallest largest probability of a pixel that is sure.
    """

    def __init__(self, *, threshold: Share = 0.97) -> None:
        super().__init__()
        self.threshold = threshold

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """`(2,)`: number of sure pixels, and of valid ones."""
        sure = labels.valid & (labels.confidence >= self.threshold)
        return torch.stack([sure.sum(), labels.valid.sum()]).to(count_dtype(labels.valid.device))

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        return torch.ones_like(labels.confidence) * self.share(summed).to(labels.confidence)

    def share(self, summed: Tensor) -> Tensor:
        """The share."""
        return summed[0] / summed[1].clamp(min=1)

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The share."""
        return {"sure_share": self.share(summed)}


class CrossingThreshold(PixelWeight):
    """Weight 1 from a threshold on that separates right from wrong predictions (DAW, Sun et al. 2023).

    The confidences of both in labeled images are taken as normal distributions, whose means and variances are moving
    averages from 1 / C and 1/2 on. The threshold is where their densities cross, at least 1 / C. A step uses what the
    steps before have seen, the first one 0.95.

    Shape:
        labels `(B, K, *S)` to `(B, *S)`.

    Args:
        momentum: of the moving averages.
    """

    means: Tensor
    variances: Tensor
    started: Tensor
    threshold: Tensor

    def __init__(self, *, momentum: Share = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("variances", torch.full((2,), 0.5))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("threshold", torch.tensor(0.95))

    def labeled_statistics(self, logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
        """`(7,)`: number, sum and sum of squares of the confidences of right pixels, of wrong ones; C times all."""
        confidence, predicted = logits.softmax(1).max(1)
        sure = confidence.to(count_dtype(masks.device))
        parts = [known & (predicted == masks), known & (predicted != masks)]
        sums = [torch.where(part, each, 0).sum() for part in parts for each in (torch.ones_like(sure), sure, sure**2)]
        return torch.stack([*sums, logits.shape[1] * known.sum().to(sure)])

    def absorb_labeled(self, summed: Tensor) -> None:
        """Move means and variances, and the threshold with them."""
        (count, total, squares), scaled = summed[:6].view(2, 3).unbind(1), summed[6]
        floor = count.sum() / scaled.clamp(min=1)
        mean = total / count.clamp(min=1)
        variance = (squares - count * mean**2).clamp(min=0) / (count - 1).clamp(min=1)
        ok = count >= FEWEST
        self.means.copy_(torch.where(scaled.bool() & ~self.started, floor, self.means))
        self.started |= scaled.bool()
        moved(self.means, mean, self.momentum, ok)
        moved(self.variances, variance, self.momentum, ok)
        kind = summed.dtype
        found = crossing(*self.means.to(kind), *self.variances.to(kind))
        bounded = torch.maximum(found, floor.to(found)).clamp(max=1)
        self.threshold.copy_(torch.where(found.isnan() | ~scaled.bool(), self.threshold, bounded))

    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Weight of each pixel."""
        return (labels.confidence >= self.threshold).to(labels.confidence.dtype)

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """The threshold."""
        return {"threshold": self.threshold}


def crossing(high: Tensor, low: Tensor, high_variance: Tensor, low_variance: Tensor) -> Tensor:
    """Where the densities of two normal distributions are equal; NaN if one of them has no variance.

    The root `(-b + r) / 2a` of `a T^2 + b T + d`, `r^2 = b^2 - 4 a d`, is computed so that equal variances (`a = 0`)
    give the middle of the means, or a huge number where `high` is below `low`; equal distributions give 0.
    """
    a = high_variance - low_variance
    b = 2 * (high * low_variance - low * high_variance)
    d = low**2 * high_variance - high**2 * low_variance
    d = d + high_variance * low_variance * (low_variance / high_variance).log()
    root = (b**2 - 4 * a * d).sqrt()
    tiny = torch.finfo(b.dtype).tiny
    return torch.where(b >= 0, -2 * d / (b + root).clamp(min=tiny), (root - b) / torch.where(a == 0, tiny, 2 * a))


def boundaries(labels: PseudoLabels) -> Tensor:
    """`(B, *S)` bool: valid pixels with a valid neighbor, of `3^d - 1`, whose most probable class is another."""
    classes, valid = labels.classes[:, :1].float(), labels.valid.unsqueeze(1)
    pools = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
    pool = pools[classes.dim() - 2]
    high, low = (pool(torch.where(valid, sign * classes, -torch.inf), 3, 1, 1) for sign in (1, -1))
    return (high != -low)[:, 0] & labels.valid
