"""Scores of each image: counts per class, from which scores over any choice of the images follow; as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Item
from farcluss.errors import DataError, not_a_file

COUNTS = ("right", "true", "predicted")
FIRST = ["image", "group", "pixels", "accuracy", "miou"]


@dataclass(frozen=True)
class PerImage:
    """Pixel counts of each image.

    Attributes:
        classes: names.
        images: N ids.
        groups: what each belongs to, such as a patient or a scene; empty for images on their own.
        counts: `(N, 3, C)` pixels that are predicted rightly, that are of the class, and that are predicted as it.
    """

    classes: tuple[str, ...]
    images: tuple[str, ...]
    groups: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, classes: Sequence[str], found: Sequence[tuple[Item, NDArray[np.int64]]]) -> "PerImage":
        """Of the confusion matrices `(C, C)` of images, true classes in rows; sorted by id."""
        found = sorted(found, key=lambda pair: pair[0].id)
        counts = [np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)]) for _, matrix in found]
        table = np.stack(counts) if counts else np.zeros((0, 3, len(classes)), np.int64)
        ids, groups = (tuple(getattr(item, key) for item, _ in found) for key in ("id", "group"))
        return cls(tuple(classes), ids, groups, table)

    @property
    def miou(self) -> NDArray[np.float64]:
        """Mean IoU of each image `(N,)`, over its own classes; NaN for one without a valid pixel."""
        return mean_iou(self.counts)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of the pixels of each image `(N,)` that are predicted rightly."""
        right, true, _ = np.moveaxis(self.counts.sum(2), 1, 0)
        return np.asarray(np.divide(right, true, out=np.full(len(true), np.nan), where=true > 0))

    def to_csv(self) -> str:
        """A row per image: id, group, valid pixels, accuracy and mIoU; IoU and the three counts of each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        per_class = [f"{name} {what}" for name in self.classes for what in ("iou", *COUNTS)]
        writer.writerow([*FIRST, *per_class])
        ious = iou(self.counts)
        for row, (image, group) in enumerate(zip(self.images, self.groups, strict=True)):
            counts = self.counts[row]
            cells = [[_cell(ious[row, index]), *counts[:, index]] for index in range(len(self.classes))]
            scores = [_cell(self.accuracy[row]), _cell(self.miou[row])]
            writer.writerow([image, group, counts[1].sum(), *scores, *(cell for each in cells for cell in each)])
        return text.getvalue()


def read_per_image(path: Path) -> PerImage:
    """A file of `PerImage.to_csv`. Raises DataError: there is none, or it is another."""
    if other := not_a_file(path):
        raise DataError(f"{path} is {other}, not a table of images.")
    try:
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        if head[: len(FIRST)] != FIRST:
            raise ValueError("other columns")
        names = [column.removesuffix(" right") for column in head[len(FIRST) :] if column.endswith(" right")]
        places = [[head.index(f"{name} {what}") for name in names] for what in COUNTS]
        counts = [[[int(row[place]) for place in each] for each in places] for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no table of `farcluss eval --per-image`: {error}.") from None
    table = np.array(counts, np.int64).reshape(len(rows), 3, len(names))
    return PerImage(tuple(names), tuple(row[0] for row in rows), tuple(row[1] for row in rows), table)


def iou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU per class of counts `(*, 3, C)` -> `(*, C)`; NaN for a class that is neither true nor predicted."""
    right, true, predicted = np.moveaxis(counts, -2, 0)
    union = true + predicted - right
    return np.asarray(np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0))


def mean_iou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of counts `(*, 3, C)` -> `(*)`, over the classes that are there; NaN where none is."""
    values = iou(counts)
    known = ~np.isnan(values)
    total, number = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"
