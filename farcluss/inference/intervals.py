"""How sure a difference between two methods is: a bootstrap over images within, and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farcluss.inference.per_image import PerImage, mean_iou

ROUNDS, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Difference:
    """A difference of mIoU, as shares.

    Attributes:
        mean: over the seeds.
        low: lower end of the interval that holds `LEVEL` of the bootstrap.
        high: its upper end.
        ahead: seeds in which it is above zero.
        seeds: how many there are.
        units: images, or groups of them, that were drawn from.
    """

    mean: float
    low: float
    high: float
    ahead: int
    seeds: int
    units: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(first: Sequence[PerImage], second: Sequence[PerImage], seed: int = 0) -> Difference:
    """How much higher the mIoU of the second method is, from runs of the same seeds on the same images.

    Each round draws images (whole groups, as neighbors are alike) with replacement, the same for both methods and all
    seeds, and seeds with replacement; percentiles of the rounds' mean differences bound the interval (Efron and
    Tibshirani, 1993, chapter 13). With few seeds it is too narrow rather than too wide.

    Args:
        first: scores of the method to compare with, per seed.
        second: those of the other one, in the same order.
        seed: of the draws.

    Raises:
        ValueError: the runs are not of the same images.
    """
    runs = [*first, *second]
    if len(first) != len(second) or len({run.images for run in runs}) != 1:
        raise ValueError("runs to compare must be of the same seeds and images")
    units = unit_counts(runs)
    rng = np.random.default_rng(seed)
    images = rng.multinomial(units.shape[1], np.full(units.shape[1], 1 / units.shape[1]), ROUNDS)
    drawn = np.stack([mean_iou(_summed(images, counts)) for counts in units])  # (2 S, rounds)
    gaps = drawn[len(first) :] - drawn[: len(first)]
    picks = rng.integers(0, len(first), (ROUNDS, len(first)))
    means = gaps[picks, np.arange(ROUNDS)[:, None]].mean(1)
    low, high = np.quantile(means[~np.isnan(means)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    whole = mean_iou(units.sum(1))
    own = whole[len(first) :] - whole[: len(first)]
    return Difference(float(own.mean()), float(low), float(high), int((own > 0).sum()), len(own), units.shape[1])


def unit_counts(runs: Sequence[PerImage]) -> NDArray[np.int64]:
    """Counts `(R, U, 3, C)` of runs on the same images, summed over each group; an image on its own is one."""
    names = [group or f"image {image}" for image, group in zip(runs[0].images, runs[0].groups, strict=True)]
    _, places = np.unique(names, return_inverse=True)
    table = np.zeros((len(runs), places.max(initial=-1) + 1, *runs[0].counts.shape[1:]), np.int64)
    for run, counts in zip(runs, table, strict=True):
        np.add.at(counts, places, run.counts)
    return table


def _summed(weights: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted sums `(R, 3, C)` of counts `(U, 3, C)`, exact below 2^53 pixels."""
    return np.asarray(np.tensordot(weights.astype(np.float64), counts.astype(np.float64), 1))
