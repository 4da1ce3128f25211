"""A data set of cases: volumes, or slices of volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Data, Defaults, Item, Palette, Sample, Window
from farcluss.data.indexes import in_split, refuse_name
from farcluss.data.layouts import carry
from farcluss.data.masks import MaskMap
from farcluss.errors import DataError
from farcluss_medical.cache import Cache
from farcluss_medical.cases import Case, Index
from farcluss_medical.crops import around, foreground, nonzero_box, within
from farcluss_medical.preprocessing import Preprocessing
from farcluss_medical.volumes import Header


@dataclass(frozen=True)
class VolumeDataset:
    """Preprocessed volumes `(C, *S)` float32, their axes right, anterior, superior; with a `slice_axis`, their slices.

    Attributes:
        data: section of the recipe.
        index: of the cases that can be used.
        headers: of their first image files, by case.
        masks: from label values to classes.
        palette: one color per class.
        preprocessing: applied to every case.
        slice_axis: axis along which volumes are sliced; None for volumes.
        foreground: probability that a labeled crop contains a voxel of a class other than the first.
        cache: stores preprocessed arrays.
        defaults: values of recipe keys that are unset.
    """

    data: Data
    index: Index
    headers: Mapping[str, Header]
    masks: MaskMap
    palette: Palette
    preprocessing: Preprocessing
    slice_axis: int | None
    foreground: float
    cache: Cache
    defaults: Defaults

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in order of index."""
        return self.masks.names

    @property
    def carried(self) -> Data:
        """The section as stored in weights files: usable without the fingerprint file and without the data."""
        options = {
            **self.index.options,
            "slice_axis": "auto" if self.slice_axis is None else self.slice_axis,
            "spacing": None if self.preprocessing.spacing is None else list(self.preprocessing.spacing),
            "fingerprint": list(self.preprocessing.fingerprint),
        }
        return carry(self.data, self.masks, options)

    def findings(self) -> list[str]:
        """What is missing or contradictory among the files."""
        return list(self.index.problems)

    def items(self, split: str) -> list[Item]:
        """Items of a split: a case each, or a slice each. Raises DataError when files are missing or contradictory."""
        return [item for case in in_split(self.index, split, self.data, "case") for item in self._items(case)]

    def parse_group(self, line: str) -> list[Item]:
        """The items of a line: `CASE` (all its slices), or `CASE/NUMBER` for one slice."""
        case = self._cases.get(line.strip())
        return [self.parse(line)] if case is None else self._items(case)

    def parse(self, line: str) -> Item:
        """The item of a line: `CASE`, or `CASE/NUMBER` for a slice."""
        name, _, number = line.strip().rpartition("/") if self.slice_axis is not None else (line.strip(), "", "")
        case = self._cases.get(name)
        if case is None:
            refuse_name(line.strip(), self.index, self.data, "case", self._example())
        items = self._items(case)
        if self.slice_axis is None:
            return items[0]
        if not number.isdecimal() or int(number) >= len(items):
            raise DataError(f"{line.strip()!r}: case {name} has the slices 0 to {len(items) - 1}.")
        return items[int(number)]

    def size(self, item: Item) -> tuple[int, ...]:
        """Size of a volume, or of its slices."""
        size = self._sizes[self.find(item)[0].id]
        return size if self.slice_axis is None else (*size[: self.slice_axis], *size[self.slice_axis + 1 :])

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """A volume or slice, or a window of it, from the cache. Raises DataError that names the file."""
        case, number = self.find(item)
        part = self._part(number, window or (slice(None),) * len(self.size(item)))
        image = np.array(self.cache.image(case, self.preprocessing)[(slice(None), *part)])
        mask = None if item.mask is None else np.array(self._mask(case)[part])
        return Sample(image, mask)

    def place(self, item: Item, lengths: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        """Start of a crop: at random around a foreground voxel where the item has a label, else in the nonzero region.

        Foreground is drawn by class first, so that rare classes are seen as often as common ones.
        """
        size = self.size(item)
        case, number = self.find(item)
        if item.mask is not None and rng.uniform() < self.foreground:
            spots = self._spots(case, number)
            if len(spots):
                kind = rng.choice(np.flatnonzero(np.bincount(spots[:, 0])))
                spot = spots[rng.choice(np.flatnonzero(spots[:, 0] == kind))]
                return around(spot[1:], size, lengths, rng)
        low, high = self._box(case, number)
        return within(low, high, size, lengths, rng)

    def find(self, item: Item) -> tuple[Case, int]:
        """The case of an item, and which of its slices it is; 0 for volumes."""
        if self.slice_axis is None:
            return self._cases[item.id], 0
        name, _, number = item.id.rpartition("/")
        return self._cases[name], int(number)

    @cached_property
    def _cases(self) -> dict[str, Case]:
        return {case.id: case for cases in self.index.splits.values() for case in cases}

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the preprocessed cases; every crop asks for one."""
        return {name: self.preprocessing.size(header) for name, header in self.headers.items()}

    def _example(self) -> str:
        case = next(iter(self._cases), "CASE")
        return case if self.slice_axis is None else f"{case}/0"

    def _items(self, case: Case) -> list[Item]:
        image, label = case.images[0], case.label
        if self.slice_axis is None:
            return [Item(case.id, image, label, case.patient)]
        count = self._sizes[case.id][self.slice_axis]
        names = [f"{number:03d}" for number in range(count)]
        return [Item(f"{case.id}/{n}", f"{image}#{n}", label and f"{label}#{n}", case.patient) for n in names]

    def _part(self, number: int, window: Window) -> tuple[slice | int, ...]:
        axis = self.slice_axis
        return window if axis is None else (*window[:axis], number, *window[axis:])

    def _mask(self, case: Case) -> NDArray[np.uint8]:
        return self.cache.mask(case, self.preprocessing, self.masks)

    def _spots(self, case: Case, number: int) -> NDArray[Any]:
        """`(N, 1 + axes)` class and position of foreground voxels."""
        if self.slice_axis is None:
            return self.cache.foreground(case, self.preprocessing, self.masks)
        mask = self._mask(case)[self._part(number, (slice(None),) * (len(self.headers[case.id].shape) - 1))]
        return foreground(mask, len(self.classes))

    def _box(self, case: Case, number: int) -> tuple[Sequence[int], Sequence[int]]:
        """Bounding box of nonzero voxels of a volume or slice: start and end (exclusive) per axis."""
        if self.slice_axis is None:
            return self.cache.box(case, self.preprocessing)
        image = self.cache.image(case, self.preprocessing)
        return nonzero_box(image[(slice(None), *self._part(number, (slice(None),) * (image.ndim - 2)))])

    def without_normalization(self) -> "VolumeDataset":
        """The same cases without normalization and resampling, for statistics."""
        return replace(self, preprocessing=Preprocessing("none", zero_nan=self.preprocessing.zero_nan))
