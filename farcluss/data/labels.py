"""Whether masks hold anything to learn from: pixels of each class, and what is ignored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Dataset, Item, Sample, read_sample
from farcluss.data.masks import as_list
from farcluss.errors import DataError, FarclussError, some
from farcluss.recipes.model import Data


@dataclass
class LabelCounts:
    """What the masks of a set hold.

    Attributes:
        pixels: `(C + 1,)` int64, pixels of each class, then those that count nowhere.
        ignored: pixels that count nowhere because of their mask value.
        masks: number of masks.
        ignoring: number of masks with such pixels.
    """

    pixels: NDArray[np.int64]
    ignored: int = 0
    masks: int = 0
    ignoring: int = 0

    def add(self, sample: Sample) -> None:
        """Count the pixels of a sample that `read_sample` returned; one without a mask changes nothing."""
        if sample.mask is None:
            return
        found = np.bincount(sample.mask.ravel(), minlength=IGNORE + 1)
        invalid = 0 if sample.valid is None else sample.valid.size - int(np.count_nonzero(sample.valid))
        self.pixels += [*found[: len(self.pixels) - 1], found[IGNORE]]
        ignored = int(found[IGNORE]) - invalid  # `read_sample` ignores what is not valid
        self.ignored += ignored
        self.masks += 1
        self.ignoring += ignored > 0

    @property
    def empty(self) -> bool:
        """Whether there are masks, but no pixel of any class."""
        return self.masks > 0 and not self.pixels[:-1].any()


def no_labels(where: str, masks: int) -> str:
    """The message for masks without a pixel of any class."""
    return (
        f"{where}: no pixel of its {masks} masks belongs to a class, all are ignored.\n"
        "Check data.classes, data.ignore_index and the images' nodata."
    )


def refuse_unlabeled(dataset: Dataset, items: Sequence[Item], where: str) -> None:
    """Raise DataError when no mask has a pixel of any class.

    Items are read only until one has such a pixel, usually the first. Those that cannot be read are left to whoever
    reads them next.
    """
    counts = LabelCounts(np.zeros(len(dataset.classes) + 1, np.int64))
    for item in items:
        try:
            counts.add(read_sample(dataset, item))
        except FarclussError:
            return
        if not counts.empty:
            return
    if counts.empty:
        raise DataError(no_labels(where, counts.masks))


def missing_classes(classes: Sequence[str], counts: LabelCounts, data: Data, where: str, unit: str = "pixel") -> str:
    """A warning about classes without a pixel, with the likely cause; empty where there is none.

    Args:
        classes: names, in order of index.
        counts: of all masks of a set.
        data: section of the recipe: says which mask values are ignored.
        where: the set, for the message.
        unit: what a mask consists of, for the message.
    """
    missing = [name for name, pixels in zip(classes, counts.pixels, strict=False) if not pixels]
    if not missing or not counts.masks:
        return ""
    text = f"No {unit} in {where} belongs to {some([repr(name) for name in missing])}"
    values = [*as_list(data.ignore_index), *([0] if data.reduce_zero_label else [])] or [IGNORE]
    if not counts.ignored:
        return f"{text}. Check data.classes, or take the class out."
    one = f"mask value {values[0]}" if len(values) == 1 else "an ignored mask value"
    return (
        f"{text}, but {100 * counts.ignored / counts.pixels.sum():.2g} % of the {unit}s, in {counts.ignoring} of "
        f"{counts.masks} masks, are ignored.\n"
        f"If {one} is that class, write data.classes = {{ {_spelled(classes, missing, values[0], data)} }}."
    )


def _spelled(classes: Sequence[str], missing: Sequence[str], value: object, data: Data) -> str:
    """Classes by value, with the ignored value for a missing one; only that one where there are many."""
    if len(classes) > 4 or isinstance(data.classes, dict):
        return f"..., {missing[0]} = {value}"
    return ", ".join(f"{name} = {value if name == missing[0] else index}" for index, name in enumerate(classes))
