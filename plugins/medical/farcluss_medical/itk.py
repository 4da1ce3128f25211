"""NRRD, MetaImage and DICOM series, read by SimpleITK, which is imported when the first of them is read."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.errors import DataError, PluginError

FILES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
"""Endings of DICOM slices; those with none, or a number as in `1.2.840.1`, are known by their content."""
UNEVEN = 0.1
"""Share of the distance of two slices by which one may lie off its place: positions are rounded, not missing."""
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's axes, left, posterior, superior, to right, anterior, superior."""

Grid = tuple[tuple[int, ...], NDArray[np.float64]]
"""Shape `(*S)` or `(*S, C)`, and the affine `(4, 4)` to millimeters right, anterior, superior."""


def is_itk(path: str) -> bool:
    """Whether a path is for this module: a file of these formats, or a folder, which is a DICOM series."""
    return path.lower().endswith(FILES) or os.path.isdir(path)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or, without a telling one, by its content."""
    end = path.suffix.lower()
    if end in DICOM or (end and not end[1:].isdecimal()) or not path.is_file():
        return end in DICOM
    with open(path, "rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files itself, not in its subfolders."""
    return folder.is_dir() and any(is_dicom(path) for path in folder.iterdir() if not path.name.startswith("."))


def simple_itk() -> Any:
    """The module SimpleITK. Raises PluginError that says how to install it."""
    try:
        sitk: Any = import_module("SimpleITK")
    except ImportError:
        raise PluginError(
            "NRRD, MetaImage and DICOM are read by SimpleITK, which is not installed: pip install 'SimpleITK>=2.4'\n"
            "(the extra `itk` of farcluss-medical)."
        ) from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def read_grid(path: str) -> Grid:
    """Shape and affine of a file or series, without its voxels.

    Raises:
        DataError: a folder does not hold exactly one series, or its slices do not form a grid.
        RuntimeError: SimpleITK's, for damaged files.
    """
    grids = [_grid(_information(name)) for name in _files(path)]
    return grids[0] if len(grids) == 1 else _stacked(path, grids)


def read_voxels(path: str) -> NDArray[Any]:
    """Voxels in the shape of `read_grid`; of a series as float32, since slices may have scales of their own."""
    sitk, names = simple_itk(), _files(path)
    if len(names) > 1:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    else:
        image = sitk.ReadImage(names[0], sitk.sitkFloat32) if os.path.isdir(path) else sitk.ReadImage(names[0])
    array: NDArray[Any] = sitk.GetArrayFromImage(image)  # axes backwards, channels last
    axes = tuple(reversed(range(image.GetDimension())))
    return array.transpose(*axes, *range(len(axes), array.ndim))


def read_type(path: str) -> tuple[str, bool]:
    """How voxels are stored, and whether the file says where they lie; a NRRD file without `space` does not."""
    reader = _information(_files(path)[0])
    kind = simple_itk().GetPixelIDValueAsString(reader.GetPixelIDValue())
    nrrd = path.lower().endswith((".nrrd", ".nhdr"))
    return kind, not nrrd or "NRRD_space" in reader.GetMetaDataKeys()


def _files(path: str) -> list[str]:
    """The file itself, or the slices of a series in the order of their positions."""
    if not os.path.isdir(path):
        return [path]
    reader = simple_itk().ImageSeriesReader
    found = reader.GetGDCMSeriesIDs(path)
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found) or 'no'} DICOM series. Give each series a folder of its own.")
    return list(reader.GetGDCMSeriesFileNames(path, found[0]))


def _information(path: str) -> Any:
    """A reader that has read the header of a file."""
    reader = simple_itk().ImageFileReader()
    reader.SetFileName(path)
    reader.ReadImageInformation()
    return reader


def _grid(reader: Any) -> Grid:
    """Shape and affine from a header."""
    size, channels = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    axes = min(len(size), 3)
    directions = np.reshape(reader.GetDirection(), (len(size), len(size)))[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = directions * reader.GetSpacing()[:axes]
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    return (*size, channels) if channels > 1 else size, TO_RAS @ affine


def _stacked(path: str, grids: Sequence[Grid]) -> Grid:
    """The grid of slices, whose distance is that of their positions: a tilted gantry gives a sheared affine."""
    (shape, affine), count = grids[0], len(grids)
    flat = all(own == shape and np.allclose(place[:3, :2], affine[:3, :2], atol=1e-3) for own, place in grids)
    if not flat or len(shape) < 3 or shape[2] != 1:
        raise DataError(f"{path}: the slices of this DICOM series differ in size or direction. Convert it to NIfTI.")
    places = np.array([place[:3, 3] for _, place in grids])
    step = (places[-1] - places[0]) / (count - 1)
    off = np.linalg.norm(places - places[0] - np.arange(count)[:, None] * step, axis=1).max()
    length = float(np.linalg.norm(step))
    if not off < UNEVEN * length:
        raise DataError(
            f"{path}: {count} DICOM slices {length:.3g} mm apart on average, but up to {off:.3g} mm off their place: "
            "slices are missing or repeated.\nComplete the series, or give each volume a folder of its own."
        )
    stacked = affine.copy()
    stacked[:3, 2] = step
    return (*shape[:2], count, *shape[3:]), stacked
