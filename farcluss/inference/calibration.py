"""Whether probabilities can be trusted: calibration, and whether uncertainty finds the errors."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.errors import FAILURES, FarclussError
from farcluss.inference.evaluation import LabeledImage, OnError, Scores, confusion_matrix, read_images, to_labeled_image
from farcluss.inference.probs import not_finite
from farcluss.tensors.distributed import all_sum
from farcluss.tensors.entropy import normalized_entropy

if TYPE_CHECKING:
    from farcluss.inference.weights import Model

BINS, FINE = 20, 1000
"""Bins of confidence, as reliability diagrams have them; of uncertainty, so fine that ties hardly matter."""
COVERAGES = (0.9, 0.8)
"""Shares of the surest pixels whose error is told."""


@dataclass(frozen=True)
class Calibration:
    """Counts over the valid pixels of all images.

    Attributes:
        confidence: `(BINS, 3)` per bin of the highest probability: pixels, sum of that probability, right pixels.
        uncertainty: `(FINE, 2)` per bin of the normalized entropy: right and wrong pixels.
    """

    confidence: NDArray[np.float64]
    uncertainty: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between confidence and accuracy of a bin (Guo et al. 2017, eq. 3)."""
        pixels, summed, right = self.confidence.T
        return float(np.abs(right - summed).sum() / pixels.sum())

    @property
    def mean_confidence(self) -> float:
        """Mean of the highest probability."""
        return float(self.confidence[:, 1].sum() / self.confidence[:, 0].sum())

    @property
    def accuracy(self) -> float:
        """Share of right pixels."""
        return float(self.confidence[:, 2].sum() / self.confidence[:, 0].sum())

    @property
    def auroc(self) -> float:
        """Probability that a wrong pixel is less sure than a right one, ties by half; NaN where all are alike."""
        right, wrong = self.uncertainty.T
        pairs = right.sum() * wrong.sum()
        below = np.cumsum(right) - right
        return float((wrong * (below + right / 2)).sum() / pairs) if pairs else float("nan")

    @property
    def risk_coverage(self) -> NDArray[np.float64]:
        """`(n, 2)`: shares of the surest pixels, from none to all, and the share of errors among them."""
        pixels, wrong = np.cumsum(self.uncertainty.sum(1)), np.cumsum(self.uncertainty[:, 1])
        there = pixels > 0
        shares, errors = pixels[there] / pixels[-1], wrong[there] / pixels[there]
        return np.stack([np.append(0 * shares[:1], shares), np.append(errors[:1], errors)], 1)

    def risk(self, coverage: float) -> float:
        """Share of errors among so many of the surest pixels."""
        shares, errors = self.risk_coverage.T
        return float(np.interp(coverage, shares, errors))

    def to_json(self) -> dict[str, Any]:
        """The figures as plain numbers; None for an undefined one."""
        auroc = None if np.isnan(self.auroc) else self.auroc
        risks = {f"error_of_surest_{round(100 * share)}": self.risk(share) for share in COVERAGES}
        return {"ece": self.ece, "mean_confidence": self.mean_confidence, "accuracy": self.accuracy,
                "auroc_of_errors": auroc, **risks}  # fmt: skip


def count_pixels(probs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a `Calibration` holds, of one image, as float64 on its device.

    Args:
        probs: `(C, *S)`.
        mask: `(*S)`, class index or `IGNORE`.
    """
    valid = (mask != IGNORE).double().flatten()
    confidence, classes = (each.flatten() for each in probs.max(0))
    right = valid * (classes == mask.flatten())
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    sums = torch.stack([valid, valid * confidence, right], 1)
    fine = (normalized_entropy(probs[None])[0].flatten() * FINE).long().clamp(max=FINE - 1)
    found = torch.stack([right, valid - right], 1)
    empty = sums.new_zeros
    return empty(BINS, 3).index_add_(0, bins, sums), empty(FINE, 2).index_add_(0, fine, found)


Look = Callable[[Item, NDArray[np.int64]], None]
"""Called with each image and its confusion matrix."""


def calibrate(
    model: "Model",
    dataset: Dataset,
    items: Sequence[Item],
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    on_error: OnError | None = None,
    on_image: Look = lambda item, matrix: None,
) -> tuple[Scores, Calibration]:
    """Scores and calibration of a model, image by image, each counted once for any number of processes.

    Args:
        model: predicts at the images' own size.
        dataset: the data set.
        items: items with masks.
        workers: loader processes.
        rank: rank of this process, which looks at every `world`-th item.
        world: number of processes; all must call this.
        on_error: called for each image that cannot be read or predicted, which is then left out; None to raise.
        on_image: see `Look`.

    Raises:
        FarclussError: without `on_error`, of the first image that fails.
    """
    classes = len(model.classes)
    confusion = np.zeros((classes, classes), np.int64)
    confidence, uncertainty = np.zeros((BINS, 3)), np.zeros((FINE, 2))
    with closing(read_images(dataset, items[rank::world], workers, to_labeled_image)) as samples, model.evaluating():
        for item, found in samples:
            try:
                matrix, *counts = _count(model, found)
            except FAILURES as error:
                if on_error is None:
                    raise
                on_error(item, error)
                continue
            confusion += matrix
            confidence += counts[0]
            uncertainty += counts[1]
            on_image(item, matrix)
    place = model.device if world > 1 else "cpu"
    confusion, confidence, uncertainty = (
        all_sum(torch.from_numpy(each).to(place)).cpu().numpy() for each in (confusion, confidence, uncertainty)
    )
    return Scores(confusion, tuple(model.classes)), Calibration(confidence, uncertainty)


def _count(model: "Model", found: LabeledImage | FarclussError) -> tuple[Any, ...]:
    """Confusion matrix and counts of an image, as arrays."""
    if isinstance(found, FarclussError):
        raise found
    probs = model.batch_probs(found.image[None])[0]
    if not bool(probs.isfinite().all()):
        raise not_finite("the image")
    if probs.device.type == "mps":  # which has no float64
        probs = probs.cpu()
    mask = found.mask.to(probs.device)
    matrix = confusion_matrix(probs.argmax(0), mask, len(probs))
    return tuple(each.cpu().numpy() for each in (matrix, *count_pixels(probs, mask)))
