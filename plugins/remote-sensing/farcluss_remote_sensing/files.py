"""Files with bands on a grid: opened by each process on its own, read by windows.

Notation used for shapes: C bands, h, w rows and columns of a window.
"""

import os
import stat
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # of GDAL's errors, some have no public class
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as Box

from farcluss.data.base import Window
from farcluss.errors import DataError, not_a_file, short
from farcluss_remote_sensing.addresses import is_address

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg")
OPEN = 64
"""Maximum number of files that a process keeps open."""
PATIENCE = {"GDAL_HTTP_CONNECTTIMEOUT": 30, "GDAL_HTTP_LOW_SPEED_TIME": 60, "GDAL_HTTP_LOW_SPEED_LIMIT": 1}
"""Seconds, and bytes per second below which a transfer has stalled, unless the environment says otherwise."""

_handles: OrderedDict[tuple[Any, ...], tuple[Any, Any]] = OrderedDict()
"""By path, grid and resampling: the state of the file when it was opened, and the open file."""


def close_all() -> None:
    """Close all files; they reopen on use. Handles must not be shared with a forked process."""
    while _handles:
        _handles.popitem()[1][1].close()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=close_all)


@dataclass(frozen=True)
class Grid:
    """The pixel grid of a file.

    Attributes:
        height: rows.
        width: columns.
        transform: from (column, row) of a pixel's corner to coordinates: `x = a * column + b * row + c`,
            `y = d * column + e * row + f`.
        crs: coordinate reference system as WKT; empty if the file has none.
    """

    height: int
    width: int
    transform: tuple[float, float, float, float, float, float]
    crs: str

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)`."""
        return self.height, self.width

    @property
    def placed(self) -> bool:
        """Whether the file is georeferenced."""
        return bool(self.crs) or self.transform != (1, 0, 0, 0, 1, 0)

    def corners(self, window: Window | None = None) -> NDArray[np.float64]:
        """`(4, 2)` coordinates of the corners of the grid, or of a window of it, in order around it."""
        rows, columns = window or (slice(0, self.height), slice(0, self.width))
        a, b, c, d, e, f = self.transform
        places = [(columns.start, rows.start), (columns.stop, rows.start), (columns.stop, rows.stop),
                  (columns.start, rows.stop)]  # fmt: skip
        return np.array([(a * x + b * y + c, d * x + e * y + f) for x, y in places], np.float64)


@dataclass(frozen=True)
class Header:
    """Metadata of a file, and of the bands to read from it.

    Attributes:
        path: of the file.
        grid: of its pixels.
        dtypes: type of each band to read.
        names: description of each band to read; empty for a band without.
        nodata: value that means no data; None if the file has none.
        masked: whether a pixel may be invalid: a nodata value, an alpha band, a mask.
        lossy: whether its compression changes values.
    """

    path: str
    grid: Grid
    dtypes: tuple[str, ...]
    names: tuple[str, ...]
    nodata: float | None
    masked: bool
    lossy: bool


def read_header(path: str, bands: Sequence[int] = ()) -> Header:
    """The header of a file; `bands` are those to read (numbers from 1; empty for all but alpha).

    Raises:
        DataError: it cannot be read, lacks a band, or places its pixels by ground control points.
    """
    with reading(path):
        file = _open(path)
        if file.gcps[0] and file.transform.is_identity:
            raise DataError(
                f"{path} is georeferenced by ground control points, not by a transform.\n"
                f"Rectify it first: gdalwarp {path} rectified.tif"
            )
        chosen = _choose_bands(path, file, bands)
        crs = file.crs.to_wkt() if file.crs else ""
        grid = Grid(file.height, file.width, tuple(file.transform)[:6], crs)
        facts = file.tags(ns="IMAGE_STRUCTURE")
        jpeg = file.driver == "JPEG" or "JPEG" in facts.get("COMPRESSION", "")
        lossy = jpeg or facts.get("COMPRESSION_REVERSIBILITY") == "LOSSY"
        dtypes = tuple(file.dtypes[band - 1] for band in chosen)
        names = tuple(file.descriptions[band - 1] or "" for band in chosen)
        return Header(path, grid, dtypes, names, file.nodata, _is_masked(file, chosen), lossy)


def _choose_bands(path: str, file: Any, bands: Sequence[int]) -> list[int]:
    """Numbers of the bands to read from an open file. Raises DataError: it has no such band."""
    if bands and max(bands) > file.count:
        raise DataError(
            f"{path} has {file.count} bands, but band {max(bands)} is wanted.\n"
            "Check data.layout.bands, or data.layout.label_band where it is a label."
        )
    return list(bands) or [band for band, kind in enumerate(file.colorinterp, 1) if kind != ColorInterp.alpha]


def _is_masked(file: Any, bands: Sequence[int]) -> bool:
    """Whether pixels of bands may be invalid. Alpha that is read as a band, such as mislabeled infrared, is no mask."""
    taken = any(file.colorinterp[band - 1] == ColorInterp.alpha for band in bands)
    flags = (file.mask_flag_enums[band - 1] for band in bands)
    return any(MaskFlags.all_valid not in each and not (taken and MaskFlags.alpha in each) for each in flags)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn GDAL's read errors into a DataError with the file and what to do."""
    patience = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    try:
        with rasterio.Env(**patience) if is_address(path) else nullcontext():
            yield
    except (RasterioError, RasterioIOError, CPLE_BaseError, OSError) as error:
        close_all()  # GDAL would report this error again for the next open file
        if is_address(path):
            text = (
                f"{path} cannot be read: {_reason(path, error)}.\n"
                "Check the address and the network (HTTPS_PROXY), and for s3 the rights: AWS_PROFILE, or "
                "AWS_NO_SIGN_REQUEST=YES for public data."
            )
        elif not os.path.exists(path):
            text = f"{path} does not exist. Check data.root and the lists."
        elif os.path.getsize(path) == 0:
            text = f"{path} cannot be read: it is empty (0 bytes). Replace it or take it out."
        else:
            text = f"{path} cannot be read: {_reason(path, error)}. Replace it or take it out."
        raise DataError(text) from None


def _reason(path: str, error: Exception) -> str:
    """What GDAL says of a file, on one line and without its name."""
    return short(str(error.__cause__ or error).partition("\n")[0].removeprefix(f"'{path}' ").strip().rstrip("."))


def _state(path: str) -> tuple[int, ...]:
    """Identifies the content of a file; nothing of an address. Raises DataError: it is no file."""
    if is_address(path):
        return ()
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"{path} cannot be read: it is {not_a_file(path)}. Take it out.")
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _open(
    path: str, grid: Grid | None = None, resampling: Resampling = Resampling.nearest, nodata: float | None = None
) -> Any:
    """An open file of this process; with a `grid`, resampled onto it. Reopened if it has changed."""
    key, stamp = (path, grid, resampling, nodata), _state(path)
    if key in _handles and _handles[key][0] != stamp:
        _handles.pop(key)[1].close()
    if key in _handles:
        _handles.move_to_end(key)
        return _handles[key][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pictures without georeference are allowed
        file = rasterio.open(path)
        if grid is not None:
            place = {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform)}
            if nodata is not None and in_dtype_range(nodata, file.dtypes[0]):
                place |= {"src_nodata": nodata, "nodata": nodata}
            alpha = "nodata" not in place and file.nodata is None and ColorInterp.alpha not in file.colorinterp
            size = {"height": grid.height, "width": grid.width}
            file = WarpedVRT(file, resampling=resampling, add_alpha=alpha, **place, **size)
    _handles[key] = stamp, file
    if len(_handles) > OPEN:
        _handles.popitem(last=False)[1][1].close()
    return file


def read_file(
    path: str,
    window: Window,
    *,
    bands: Sequence[int] = (),
    grid: Grid | None = None,
    resampling: Resampling = Resampling.nearest,
    shrink: int = 1,
    nodata: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """A window of a file.

    A pixel is invalid where alpha or a mask says so, where a file of more than 8 bits has its nodata value in any
    band, where an 8-bit file has it in all (0 and 255 are ordinary values there), and where a value is not finite.

    Args:
        path: of the file.
        window: rows and columns, inside the file or the grid.
        bands: numbers from 1; empty for all but alpha.
        grid: resample onto this grid, of which `window` is then a part.
        resampling: method.
        shrink: read only every n-th row and column, from overviews if there are any.
        nodata: value that means no data, besides the file's own.

    Returns:
        Values `(C, ceil(h / shrink), ceil(w / shrink))` in the file's own type (one that holds all values, where bands
        differ), and where they are valid `(ceil(h / shrink), ceil(w / shrink))`; None where all are.

    Raises:
        DataError: the file cannot be read, or lacks a band.
    """
    rows, columns = window
    box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)  # type: ignore[no-untyped-call,unused-ignore]
    with reading(path):
        file = _open(path, grid, resampling, nodata)
        chosen = _choose_bands(path, file, bands)
        shape = tuple(-(-(part.stop - part.start) // shrink) for part in window)
        if len({file.dtypes[band - 1] for band in chosen}) == 1:
            values = file.read(chosen, window=box, out_shape=(len(chosen), *shape))
        else:  # rasterio reads bands of different types only one by one
            values = np.stack([file.read(band, window=box, out_shape=shape) for band in chosen])
        valid = None
        if _is_masked(file, chosen):
            masks = file.read_masks(chosen, window=box, out_shape=(len(chosen), *shape)) > 0
            valid = masks.any(0) if values.dtype == np.uint8 else masks.all(0)
    if nodata is not None:
        empty = values == nodata
        there = ~(empty.all(0) if values.dtype == np.uint8 else empty.any(0))
        valid = there if valid is None else valid & there
    if np.issubdtype(values.dtype, np.floating):
        finite = np.isfinite(values).all(0)
        valid = finite if valid is None else valid & finite
    return values, None if valid is None or valid.all() else valid


def read_colors(path: str) -> dict[int, tuple[int, int, int]] | None:
    """The colors of the values of a file with a color table; None where it has none. Raises DataError."""
    with reading(path):
        file = _open(path)
        if file.colorinterp[0] != ColorInterp.palette:
            return None
        return {value: (red, green, blue) for value, (red, green, blue, _) in file.colormap(1).items()}


@dataclass(frozen=True)
class Stack:
    """The bands of a scene: those of one or more files, on the grid of the first.

    Attributes:
        files: their paths.
        bands: numbers (from 1) of the bands to read from each file; empty for all but alpha.
        warp: whether files on other grids are resampled (bilinear) onto that of the first.
        nodata: value that means no data, besides the files' own.
    """

    files: tuple[str, ...]
    bands: tuple[int, ...] = ()
    warp: bool = False
    nodata: float | None = None

    @cached_property
    def headers(self) -> tuple[Header, ...]:
        """Of all files. Raises DataError."""
        return tuple(read_header(path, self.bands) for path in self.files)

    @property
    def grid(self) -> Grid:
        """Of the first file."""
        return self.headers[0].grid

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.dtypes)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Type of each band."""
        return tuple(dtype for header in self.headers for dtype in header.dtypes)

    @property
    def sources(self) -> tuple[str, ...]:
        """File of each band."""
        return tuple(header.path for header in self.headers for _ in header.dtypes)

    @property
    def names(self) -> tuple[str, ...]:
        """Description of each band; empty for a band without."""
        return tuple(name for header in self.headers for name in header.names)

    @property
    def masked(self) -> bool:
        """Whether a pixel may be invalid."""
        deep = any(np.issubdtype(np.dtype(dtype), np.floating) for dtype in self.dtypes)
        return (
            deep or self.nodata is not None or any(header.masked or header.grid != self.grid for header in self.headers)
        )

    def read(self, window: Window, shrink: int = 1) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values `(C, h, w)` of a window in the files' own type, and where they are valid in all bands `(h, w)`.

        See `read_file`. Different types are promoted to one that holds all values.

        Raises:
            DataError: a file cannot be read.
        """
        parts, valid = [], None
        for header in self.headers:
            grid = self.grid if self.warp and header.grid != self.grid else None
            how = {"bands": self.bands, "grid": grid, "resampling": Resampling.bilinear, "shrink": shrink}
            how |= {"nodata": self.nodata}
            values, known = read_file(header.path, window, **how)
            parts.append(values)
            if known is not None:
                valid = known if valid is None else valid & known
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return image, np.ones(image.shape[1:], bool) if valid is None else valid
