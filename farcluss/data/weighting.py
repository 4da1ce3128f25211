"""How often each image is drawn: labeled ones by their classes, unlabeled ones by their valid pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.errors import FAILURES, DataError, FarclussError, PluginError
from farcluss.recipes.model import Data

_UNITS = 1 << 24
"""Parts of one draw that chances are rounded to, which makes their sums exact."""


@dataclass(frozen=True, eq=False)
class Chances:
    """How often each image of a stream is drawn; compared by identity, so that orders can be cached by it.

    Attributes:
        shares: `(N,)` float64 of all draws, sum 1.
    """

    shares: NDArray[np.float64]


def count_pixels(
    size: tuple[int, ...], mask: NDArray[np.uint8] | None, valid: NDArray[np.bool_] | None, classes: int
) -> NDArray[np.int64]:
    """What `Dataset.pixel_counts` gives for an image.

    Args:
        size: `(*S)` of the image.
        mask: `(*S)`, class index or `IGNORE`; None for no mask.
        valid: `(*S)`; None where all pixels are.
        classes: C.

    Returns:
        `(1 + C,)`: valid pixels, then valid pixels of each class.
    """
    counts = np.zeros(1 + classes, np.int64)
    counts[0] = prod(size) if valid is None else np.count_nonzero(valid)
    if mask is not None:
        counted = mask.ravel() if valid is None else mask[valid]
        counts[1:] = np.bincount(counted, minlength=IGNORE + 1)[:classes]
    return counts


def by_classes(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of labeled images `(N,)`: all classes that occur have equal shares, divided among images by their pixels.

    Args:
        counts: `(N, C)` pixels of each class.

    Returns:
        Shares with sum 1; all 0 when there are no pixels.
    """
    totals = counts.sum(0)
    present = totals > 0
    return np.asarray((counts[:, present] / totals[present]).sum(1) / max(present.sum(), 1))


def by_pixels(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of images `(N,)` in proportion to their pixels `(N,)`; all are 0 when there are none."""
    return np.asarray(counts / max(counts.sum(), 1))


def multiplicities(shares: NDArray[np.float64], offset: float) -> NDArray[np.int64]:
    """How often each of N images occurs in N draws (systematic resampling).

    Args:
        shares: `(N,)`, not negative, with a positive sum.
        offset: in [0, 1), a multiple of 2^-24; when it is uniform, the mean of the result is N times the share.

    Returns:
        `(N,)`: N times the share, rounded down or up; the sum is N.
    """
    count = len(shares)
    ends = np.cumsum(np.rint(shares * (count * _UNITS / shares.sum())).astype(np.int64))
    # Image i has the draws k for which k + offset lies between the ends i - 1 and i.
    ends_in_draws = np.minimum(ends * (count / ends[-1]), count)
    return np.asarray(np.diff(np.ceil(ends_in_draws - offset), prepend=0), np.int64)


def check_draw(dataset: Dataset, data: Data) -> None:
    """Raise DataError for a balanced draw from a data set without pixel counts."""
    if data.draw == "balanced" and not hasattr(dataset, "pixel_counts"):
        raise DataError(
            f'data.draw = "balanced" needs pixel counts, which the layout {data.layout.name} does not provide.\n'
            'Set data.draw = "uniform", or pack the data set (`farcluss pack`) and set data.pack.'
        )


def draw_chances(
    dataset: Dataset, labeled: Sequence[Item], unlabeled: Sequence[Item], data: Data
) -> tuple[Chances | None, Chances | None]:
    """How often the images of both streams are drawn.

    Args:
        dataset: counts the pixels; masks of unlabeled images are hidden from it.
        labeled: images of the first stream.
        unlabeled: those of the second; may be empty.
        data: section of the recipe; `draw` is used.

    Returns:
        None for a stream whose images are drawn equally often.

    Raises:
        DataError: the data set counts no pixels, or there are none.
        PluginError: its counts are invalid.
    """
    if data.draw == "uniform":
        return None, None
    check_draw(dataset, data)
    shares = by_classes(_counts(dataset, labeled)[:, 1:])
    if not shares.any():
        raise DataError('The masks of data.labeled contain no pixel of any class.\nSet data.draw = "uniform".')
    if not unlabeled:
        return Chances(shares), None
    # Without their masks, which must not influence anything.
    others = by_pixels(_counts(dataset, [replace(item, mask=None) for item in unlabeled])[:, 0])
    if not others.any():
        raise DataError(
            'The images of data.unlabeled have no valid pixel.\nSet data.unlabeled, or data.draw = "uniform".'
        )
    return Chances(shares), Chances(others)


def _counts(dataset: Dataset, items: Sequence[Item]) -> NDArray[np.int64]:
    """Pixel counts `(N, 1 + C)`."""
    return np.stack([_count(dataset, item) for item in items])


def _count(dataset: Dataset, item: Item) -> NDArray[np.int64]:
    name = f"Data set {type(dataset).__name__}, item {item.id}"
    try:
        counts = np.asarray(dataset.pixel_counts(item))  # type: ignore[attr-defined]
    except FarclussError:
        raise
    except FAILURES as error:
        raise PluginError(f"{name}: counting pixels fails: {type(error).__name__}: {error}") from error
    wanted = (1 + len(dataset.classes),)
    if counts.shape != wanted or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise PluginError(
            f"{name}: pixel counts are {counts.dtype} {counts.shape}; they must be non-negative integers {wanted}."
        )
    return counts.astype(np.int64)
