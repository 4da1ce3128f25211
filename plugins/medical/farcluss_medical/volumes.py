"""Volumes as stored in files: voxels, affine, and errors. The only module that knows file formats."""

import gzip
from dataclasses import dataclass
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from farcluss.errors import DataError, FarclussError, is_out_of_memory, short
from farcluss_medical import itk

TOLERANCE = 0.05
"""Share of a voxel by which corners of two files on one grid may differ, along every axis."""
WHOLE = 1e-3
"""Rounding error up to which a label counts as a whole number: headers scale by float32 factors."""
Affine = NDArray[np.float64]
"""`(4, 4)`, from voxels to millimeters: axes to the right, anterior and superior."""
UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimeters by NIfTI's codes of spatial units: meter, millimeter, micrometer."""
HDF5 = (".h5", ".hdf5")
NIBABEL = (".nii.gz", ".nii", ".hdr", ".img")
SUFFIXES = (*NIBABEL, *HDF5, *itk.FILES)
"""Endings of all volumes, in lower case; a DICOM series is a folder."""
VOLUMES = tuple(end for end in SUFFIXES if end != ".img")
"""The same without files that hold the voxels of a header file."""


def is_hdf5(path: str) -> bool:
    """Whether a file is HDF5, by its ending."""
    return path.lower().endswith(HDF5)


def is_nibabel(path: str) -> bool:
    """Whether a file is NIfTI or Analyze, by its ending."""
    return path.lower().endswith(NIBABEL)


def parts(path: str) -> list[str]:
    """The files that a volume consists of: slices of a series, or all files with the name of a header file."""
    place = Path(path)
    if place.is_dir():
        return sorted(map(str, place.iterdir()))
    if not path.lower().endswith((".hdr", ".img", ".mhd", ".nhdr")):
        return [path]
    return [path, *sorted(str(p) for p in place.parent.glob(f"{escape(place.stem)}.*") if p != place)]


@dataclass(frozen=True)
class Header:
    """Shape and position of a file's voxels.

    Attributes:
        shape: `(*S)`, in the order of the file.
        channels: values per voxel; 1 for a plain volume.
        affine: `(4, 4)` float64, from voxels to millimeters.
    """

    shape: tuple[int, ...]
    channels: int
    affine: Affine


@dataclass(frozen=True)
class Volume:
    """Voxels `(C, *S)` in the order of the file, and their position: `affine` `(4, 4)`, from voxels to millimeters."""

    voxels: NDArray[Any]
    affine: Affine


def read_header(path: str, key: str = "image") -> Header:
    """Shape and position of a file's voxels, without decoding them.

    Args:
        path: of the file.
        key: array to read from a file with several, `image` or `label`.

    Raises:
        DataError: it cannot be read, or is not a volume; names the file.
    """
    with reading(path):
        if is_hdf5(path):
            stored, affine = _hdf5(path, key, shape=True), np.eye(4)
        elif itk.is_itk(path):
            stored, affine = itk.read_grid(path)
        else:
            image = _nibabel(path)
            stored, affine = tuple(map(int, image.shape)), millimeters(image)
    shape = _with_channels(stored)
    if len(shape) != 4 or not all(shape):
        raise DataError(f"{path} has the shape {stored}; a volume has three axes, and a fourth for channels.")
    steps = spacing_of(affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * np.prod(steps):
        raise DataError(f"{path} has no usable affine: {affine[:3].tolist()}. Repair its header.")
    return Header(shape[:3], shape[3], affine)


def _with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape `(*S, C)` of a volume: also of a single slice, and of the five axes that ITK writes for vectors."""
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape = (*shape, 1) if len(shape) == 2 else shape
    return (*shape, 1) if len(shape) == 3 else shape


def millimeters(image: Any) -> Affine:
    """The affine `(4, 4)` of nibabel's image from voxels to millimeters, whatever the unit of its header."""
    return np.diag([_unit(image)] * 3 + [1.0]) @ np.asarray(image.affine, np.float64)


def _unit(image: Any) -> float:
    """Millimeters by the unit of a header; 1 for an unknown unit, and for Analyze, which has none."""
    code = int(image.header["xyzt_units"]) & 7 if "xyzt_units" in image.header else 0
    return UNITS.get(code, 1.0)


def spacing_of(affine: Affine) -> tuple[float, ...]:
    """Millimeters per voxel along the axes of a file: lengths of the affine's columns, the one source of spacings."""
    return tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))


def displacement(shape: tuple[int, ...], affine: Affine, other: Affine) -> tuple[float, float]:
    """Largest distance between corners of one grid under two affines: in voxels along an axis, and in millimeters."""
    corners = np.array([[*corner, 1.0] for corner in product(*((-0.5, extent - 0.5) for extent in shape))])
    apart = (corners @ (other - affine).T)[:, :3]
    voxels = np.abs(apart @ np.linalg.inv(affine[:3, :3]).T)
    return float(voxels.max()), float(np.linalg.norm(apart, axis=1).max())


@dataclass(frozen=True)
class Storage:
    """How a file stores its voxels, for reports.

    Attributes:
        dtype: of the numbers in the file.
        orientation: directions of its axes, such as `LPS`; empty for formats without orientation.
        placed: False for a file that does not say where it lies, such as NIfTI with sform_code and qform_code 0.
        disagreement: largest distance in mm between corners by sform and by qform, if both are set; sform is used.
        pixdim: millimeters per voxel by the field pixdim where the sform says otherwise; empty if they agree.
    """

    dtype: str
    orientation: str
    placed: bool = True
    disagreement: float = 0.0
    pixdim: tuple[float, ...] = ()


def read_storage(path: str) -> Storage:
    """How a file stores its voxels. Raises DataError that names the file."""
    with reading(path):
        if is_hdf5(path):
            return Storage(_hdf5_dtype(path), "")
        if itk.is_itk(path):
            kind, placed = itk.read_type(path)
            return Storage(kind, _directions(itk.read_grid(path)[1]), placed=placed)
        image: Any = nib.load(path)
        stored = image.get_data_dtype()
        dtype, orientation = "".join(stored.names or [str(stored)]), _directions(image.affine)
        if not hasattr(image, "get_sform"):  # Analyze
            return Storage(dtype, orientation, placed=False)
        sform = image.get_sform(coded=True)[0]
        try:
            qform = image.get_qform(coded=True)[0]
        except ValueError:  # an invalid quaternion, which is not needed next to an sform
            qform = None
        if sform is None:
            return Storage(dtype, orientation, placed=qform is not None)
        unit, shape = _unit(image), _with_channels(image.shape)[:3]
        apart = 0.0 if qform is None else unit * displacement(shape, sform, qform)[1]
        pixdim = image.header.get_zooms()[:3]
        agree = np.allclose(pixdim, spacing_of(sform)[: len(pixdim)], rtol=TOLERANCE)
        return Storage(dtype, orientation, disagreement=apart, pixdim=() if agree else tuple(unit * np.array(pixdim)))


def _directions(affine: Affine) -> str:
    """Directions of the axes of a file, such as `LPS`; a question mark for an axis without one."""
    return "".join(code or "?" for code in nib.aff2axcodes(affine))


def read_image(paths: tuple[str, ...], zero_nan: bool = False) -> Volume:
    """The channels of a case as one volume `(C, *S)` float32: of one file, or of a file per channel.

    With `zero_nan`, NaN becomes 0.

    Raises:
        DataError: a file cannot be read, files differ in shape or position, or voxels are not finite; names files and
            values.
    """
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths[1:], headers[1:], strict=True):
        if text := difference(paths[0], headers[0], path, header):
            raise DataError(text)
    pairs = zip(paths, headers, strict=True)
    channels = [_voxels(path, "image", header).astype(np.float32, copy=False) for path, header in pairs]
    voxels = channels[0] if len(channels) == 1 else np.concatenate(channels)
    if zero_nan:
        voxels = np.where(np.isnan(voxels), np.float32(0), voxels)
    _refuse_infinite(", ".join(paths), voxels, 'Repair the file, or set data.layout.nan = "zero" for a border of NaN.')
    return Volume(voxels, headers[0].affine)


def read_label(path: str, image: str, header: Header) -> NDArray[Any]:
    """Label `(*S)` of an image: whole numbers, of the file's type if it stores such.

    Raises:
        DataError: it cannot be read, its shape or position differs from the image (names both values), or voxels are
            not finite or no whole numbers.
    """
    own = read_header(path, "label")
    if text := difference(image, header, path, own):
        raise DataError(text)
    if own.channels > 1:
        raise DataError(f"{path} has {own.channels} values per voxel; a label has one class per voxel.")
    return _whole(path, _voxels(path, "label", own)[0])


def _whole(path: str, values: NDArray[Any]) -> NDArray[Any]:
    """Values as whole numbers; those that a header scales may be off by a rounding error."""
    if values.dtype.kind != "f":
        return values.astype(np.uint8) if values.dtype == bool else values
    _refuse_infinite(path, values)
    rounded = np.rint(values)
    wrong = (np.abs(values - rounded) >= WHOLE) | (np.abs(rounded) >= 2**31)
    if wrong.any():
        slope = float(getattr(_nibabel(path).dataobj, "slope", 1.0)) if is_nibabel(path) else 1.0
        advice = "A label holds one class per voxel, no probabilities or interpolated values."
        if slope != 1:
            advice = f"The header multiplies what is stored by scl_slope = {slope:.6g}: write the label as integers."
        raise DataError(
            f"{path}: {np.count_nonzero(wrong):,} of {wrong.size:,} voxels are not whole numbers, "
            f"e.g. {values[wrong][0]:.9g}.\n{advice}"
        )
    return np.asarray(rounded, np.int32)


def difference(first: str, header: Header, second: str, other: Header) -> str:
    """How two files that belong together differ in shape or position, with both values; empty if they agree."""
    if header.shape != other.shape:
        return f"{second} has the shape {other.shape}, but {first} has {header.shape}. They must share one grid."
    voxels, apart = displacement(header.shape, header.affine, other.affine)
    if voxels > TOLERANCE:
        return (
            f"{second} has a different affine than {first}; corners lie {apart:.3g} mm apart:\n"
            f"{_rows(other.affine)} and\n{_rows(header.affine)}. Resample one to the grid of the other."
        )
    return ""


def _refuse_infinite(paths: str, voxels: NDArray[Any], advice: str = "Repair the file.") -> None:
    """Raise DataError if voxels are NaN, infinite or too large for float32."""
    if not (finite := np.isfinite(voxels)).all():
        bad = int(finite.size - finite.sum())
        raise DataError(f"{paths}: {bad} of {finite.size} voxels are NaN or infinite. {advice}")


def _rows(affine: Affine) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])


def _voxels(path: str, key: str, header: Header) -> NDArray[Any]:
    """Voxels `(C, *S)` of one file, of the type that it stores or scales them to."""
    with reading(path):
        if is_hdf5(path):
            array = _hdf5(path, key)
        else:
            array = itk.read_voxels(path) if itk.is_itk(path) else np.asanyarray(checked(path).dataobj)
        if array.dtype.kind not in "biuf":
            kind = "complex numbers" if array.dtype.kind == "c" else "colors"
            raise DataError(f"{path} holds {kind}. Convert it to a file with one number per voxel.")
        return np.moveaxis(array.reshape(*header.shape, header.channels), 3, 0)


def _nibabel(path: str) -> Any:
    return nib.load(path)


def checked(path: str) -> Any:
    """The image of a file; for a compressed one its checksum is verified, which nibabel does not do."""
    image = _nibabel(path)
    return type(image).from_bytes(gzip.decompress(Path(path).read_bytes())) if path.lower().endswith(".gz") else image


def _hdf5(path: str, key: str, shape: bool = False) -> Any:
    """An array of a file, or its shape alone."""
    import h5py  # here, since few data sets are in this format

    with h5py.File(path, "r") as file:
        if key not in file:
            raise DataError(f"{path} has no {key!r}; it holds {', '.join(file) or 'nothing'}.")
        return tuple(map(int, file[key].shape)) if shape else file[key][()]


def _hdf5_dtype(path: str) -> str:
    import h5py

    with h5py.File(path, "r") as file:
        return str(file["image"].dtype)


def has_label(path: str) -> bool:
    """Whether an HDF5 file holds a label besides its image."""
    import h5py

    with reading(path), h5py.File(path, "r") as file:
        return "label" in file


class reading:
    """Context manager that turns read errors into a DataError that names the file.

    Of any type: a damaged header makes libraries raise whatever its bytes lead to.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{self.path} does not exist. Check data.root and the lists.") from None
        if isinstance(error, Exception) and not isinstance(error, FarclussError):
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {short(lines[-1] if isinstance(error, RuntimeError) else lines[0])}"
            if is_out_of_memory(error):
                reason = "it has more voxels than fit into memory, or a damaged header"
            raise DataError(f"{self.path} cannot be read: {reason}. Replace the file, or take it out.") from None


@dataclass(frozen=True)
class Orientation:
    """Lossless reorientation of a file's axes to right, anterior, superior, and back.

    Attributes:
        ornt: `(3, 2)`, nibabel's orientation of the file's axes.
        shape: of the file.
    """

    ornt: NDArray[np.float64]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, header: Header) -> "Orientation":
        """The orientation of a file; an oblique affine is rounded to the nearest axis-aligned one."""
        return cls(np.asarray(io_orientation(header.affine), np.float64), header.shape)

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """`(C, *S)` in the canonical order."""
        return np.stack([apply_orientation(channel, self.ornt) for channel in array])

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """`(*S)` in the order of the file again."""
        back = np.empty_like(self.ornt)
        for axis, (place, flip) in enumerate(self.ornt):
            back[int(place)] = axis, flip
        return np.asarray(apply_orientation(array, back))

    def size(self) -> tuple[int, ...]:
        """Shape in the canonical order."""
        size = [0] * len(self.shape)
        for extent, (place, _) in zip(self.shape, self.ornt, strict=True):
            size[int(place)] = extent
        return tuple(size)

    def spacing(self, affine: Affine) -> tuple[float, ...]:
        """Millimeters per voxel in the canonical order."""
        return spacing_of(affine @ inv_ornt_aff(self.ornt, self.shape))
