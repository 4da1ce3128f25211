"""Scores of maps from confusion matrices: per class, per scene and over all.

Notation used for shapes: C classes.
"""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.inference.evaluation import Scores

UNMAPPED = "unmapped"
"""Name for valid pixels without a class in the map."""
CHANGE = ("unchanged", "changed")
NUMBERS = ("miou", "f1", "accuracy", "kappa")
"""Scores of all classes together."""


@dataclass(frozen=True)
class MapScores:
    """Scores of a map, or of several together.

    A valid pixel without a class in the map is wrong: it counts as a true pixel of its class, and is predicted as no
    class, so it lowers recall, IoU, F1, accuracy and kappa, but no precision. Undefined scores are NaN, such as
    the IoU of a class that is neither true nor predicted anywhere; means leave such classes out.

    Attributes:
        confusion: `(C, C + 1)` int64, pixels by true class (row) and predicted class (column), unmapped ones last.
        classes: C names.
        change: whether these are the two classes of change detection, the second one for change.
    """

    confusion: NDArray[np.int64]
    classes: tuple[str, ...]
    change: bool = False

    @cached_property
    def _square(self) -> Scores:
        """Scores with `unmapped` as an extra class without true pixels."""
        return Scores(np.pad(self.confusion, ((0, 1), (0, 0))), (*self.classes, UNMAPPED))

    @property
    def pixels(self) -> int:
        """Number of valid pixels."""
        return int(self.confusion.sum())

    @property
    def unmapped(self) -> int:
        """Number of valid pixels without a class in the map."""
        return int(self.confusion[:, -1].sum())

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class."""
        return self._square.iou[:-1]

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1, the Dice coefficient, per class."""
        return self._square.dice[:-1]

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of a class's true pixels that are found: the producer's accuracy."""
        return self._square.accuracy[:-1]

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the pixels mapped as a class that truly are: the user's accuracy."""
        mapped = self.confusion[:, :-1]
        total = mapped.sum(0)
        return np.asarray(np.divide(np.diag(mapped), total, out=np.full(len(total), np.nan), where=total > 0))

    @property
    def kappa(self) -> float:
        """Cohen's kappa: accuracy beyond chance; NaN where chance agreement is 1."""
        square = self._square.confusion / max(self.pixels, 1)
        chance = float(square.sum(0) @ square.sum(1))
        return (float(np.trace(square)) - chance) / (1 - chance) if self.pixels and chance < 1 else math.nan

    def numbers(self) -> dict[str, float]:
        """Scores of all classes together; preceded by those of the class `changed` for change detection."""
        headline = {"changed_iou": float(self.iou[1]), "changed_f1": float(self.f1[1])} if self.change else {}
        values = _mean(self.iou), _mean(self.f1), self._square.pixel_accuracy, self.kappa
        return headline | dict(zip(NUMBERS, values, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers; undefined scores are None."""
        columns = (self.iou, self.f1, self.recall, self.precision, self.confusion.sum(1), self.confusion[:, -1])
        keys = ("iou", "f1", "recall", "precision", "pixels", UNMAPPED)
        rows = (
            {key: _plain(value) for key, value in zip(keys, row, strict=True)} for row in zip(*columns, strict=True)
        )
        return {
            **{name: _plain(value) for name, value in self.numbers().items()},
            "pixels": self.pixels,
            UNMAPPED: self.unmapped,
            "classes": [{"class": name, **row} for name, row in zip(self.classes, rows, strict=True)],
            "confusion": self.confusion[:, :-1].tolist(),
        }


def to_csv(scenes: Mapping[str, MapScores]) -> str:
    """One line per scene; undefined scores are `nan`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, scores in scenes.items():
        numbers = scores.numbers()
        if text.tell() == 0:
            writer.writerow(["scene", "pixels", UNMAPPED, *numbers, *(f"iou_{name}" for name in scores.classes)])
        writer.writerow([name, scores.pixels, scores.unmapped, *numbers.values(), *map(float, scores.iou)])
    return text.getvalue()


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _plain(value: Any) -> int | float | None:
    if isinstance(value, np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None
