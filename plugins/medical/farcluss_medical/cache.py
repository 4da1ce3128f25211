"""Preprocessed arrays on disk, memory-mapped, so that a crop reads only its window.

MONAI's persistent cache would load a whole volume for each crop. A file's name contains a hash of everything that its
content depends on: the settings, and path, size and time of the files it was made from.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.masks import MaskMap
from farcluss.errors import DataError
from farcluss.runs.atomic import save_array, unwritable
from farcluss_medical.cases import Case
from farcluss_medical.crops import foreground, nonzero_box
from farcluss_medical.preprocessing import Preprocessing
from farcluss_medical.volumes import parts, read_header, read_image, read_label

VERSION = 3
"""Raise it when preprocessing changes."""
SPOTS = 10_000
"""Maximum number of foreground voxels stored per class."""


@dataclass(frozen=True)
class Cache:
    """A folder of arrays.

    Attributes:
        folder: of the files.
        slice_axis: axis of volumes that are read by slices: each is contiguous in its file; None for whole volumes.
    """

    folder: Path
    slice_axis: int | None = None

    def image(self, case: Case, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """The preprocessed image `(C, *S)` float32 of a case, memory-mapped."""
        facts = {**preprocessing.facts(), "slice_axis": self.slice_axis}
        kept = self._keep(
            case, "image", case.images, facts, lambda: self._slices_first(make_image(case, preprocessing), 1)
        )
        return self._slices_back(kept, 1)

    def box(self, case: Case, preprocessing: Preprocessing) -> tuple[list[int], list[int]]:
        """Bounding box of the nonzero voxels of the preprocessed image: start and end (exclusive) per axis."""

        def make() -> NDArray[np.int64]:
            return np.array(nonzero_box(self.image(case, preprocessing)))

        low, high = self._keep(case, "box", case.images, preprocessing.facts(), make).tolist()
        return low, high

    def mask(self, case: Case, preprocessing: Preprocessing, masks: MaskMap) -> NDArray[np.uint8]:
        """The mask `(*S)` of a labeled case on the grid of its image, memory-mapped."""

        def make() -> NDArray[np.uint8]:
            return self._slices_first(make_mask(case, preprocessing, masks), 0)

        return self._slices_back(self._of_label("mask", case, preprocessing, masks, make), 0)

    def foreground(self, case: Case, preprocessing: Preprocessing, masks: MaskMap) -> NDArray[np.int32]:
        """`(N, 1 + axes)` class and position of voxels of all classes but the first, at most `SPOTS` of each."""

        def make() -> NDArray[np.int32]:
            spots = foreground(self.mask(case, preprocessing, masks), len(masks.names))
            order = np.random.default_rng(0).permutation(len(spots))
            chosen = [order[spots[order, 0] == kind][:SPOTS] for kind in np.unique(spots[:, 0])]
            kept: NDArray[np.int32] = spots[np.sort(np.concatenate([*chosen, np.zeros(0, np.int64)]))]
            return kept

        return self._of_label("foreground", case, preprocessing, masks, make)

    def _slices_first(self, array: NDArray[Any], leading: int) -> NDArray[Any]:
        """An array in the axis order of its file; `leading` axes precede the spatial ones."""
        moved = array if self.slice_axis is None else np.moveaxis(array, leading + self.slice_axis, 0)
        return np.ascontiguousarray(moved)

    def _slices_back(self, array: NDArray[Any], leading: int) -> NDArray[Any]:
        """The inverse of `_slices_first`, without a copy."""
        return array if self.slice_axis is None else np.moveaxis(array, 0, leading + self.slice_axis)

    def _of_label(
        self, kind: str, case: Case, preprocessing: Preprocessing, masks: MaskMap, make: Callable[[], Any]
    ) -> NDArray[Any]:
        codes, targets = masks.codes.tolist(), masks.targets.tolist()
        facts = {"spacing": preprocessing.spacing, "codes": codes, "targets": targets, "slice_axis": self.slice_axis}
        return self._keep(case, kind, (case.label or "",), facts, make)

    def _keep(
        self, case: Case, kind: str, files: tuple[str, ...], facts: dict[str, Any], make: Callable[[], NDArray[Any]]
    ) -> NDArray[Any]:
        """An array from the folder, computed if it is missing. Raises DataError: the folder cannot be written."""
        name = re.sub(r"[^\w.-]", "_", case.id)
        path = self.folder / f"{name}-{_key(kind, files, facts)}.{kind}.npy"
        if not path.exists():
            array = make()
            try:
                _write(path, array)
            except OSError as error:
                raise DataError(f"The cache {unwritable(self.folder, error, 'data.layout.cache')}") from None
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _key(kind: str, files: tuple[str, ...], facts: dict[str, Any]) -> str:
    try:
        own = [part for path in files for part in parts(path)]
        stats = [(os.path.abspath(path), (s := os.stat(path)).st_size, s.st_mtime_ns) for path in own]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Check data.root and the lists.") from None
    text = json.dumps([VERSION, kind, facts, stats], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, array: NDArray[Any]) -> None:
    """Write under a temporary name first: several processes may compute the same array at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.part")
    try:
        with open(temporary, "wb") as file:
            save_array(file, array)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_image(case: Case, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The preprocessed image `(C, *S)` of a case, from its files. Raises DataError that names them."""
    return preprocessing.image(read_image(case.images, preprocessing.zero_nan))


def make_mask(case: Case, preprocessing: Preprocessing, masks: MaskMap) -> NDArray[np.uint8]:
    """The mask `(*S)` of a labeled case on the grid of its image, from its file. Raises DataError that names it."""
    assert case.label is not None
    header = read_header(case.images[0])
    values = read_label(case.label, case.images[0], header)
    return preprocessing.mask(masks.apply(values, case.label), header.affine)
