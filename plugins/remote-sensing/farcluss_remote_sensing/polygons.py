"""Polygons of a predicted map, in vector files for GIS."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyogrio.errors
import pyogrio.raw
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as Box

from farcluss.data.base import IGNORE, Window
from farcluss.errors import DataError, some
from farcluss.runs.atomic import UNFINISHED, rename_durably
from farcluss_remote_sensing.areas import square_meters
from farcluss_remote_sensing.files import Grid, reading
from farcluss_remote_sensing.legend import indices
from farcluss_remote_sensing.outlines import BLOCK, Block, outline

Kind = Literal["gpkg", "geojson"]
LAYER = "polygons"


def write_polygons(
    classes_path: Path,
    confidence_path: Path | None,
    classes: Sequence[str],
    outputs: Mapping[Kind, Path],
    *,
    values: Sequence[int] | None = None,
    min_area: float = 0.0,
    simplify: float = 0.0,
    block: int = BLOCK,
) -> None:
    """Write the connected components of a map as polygons along pixel edges.

    Invalid pixels belong to no polygon; class 0 is an ordinary class. The attributes are `class_id` (value in the map),
    `class`, `pixels` (their number), `area_m2` (on the ellipsoid of the CRS; null without one) and `confidence` (mean;
    null if no pixel has any), also of simplified outlines those of the pixels. A GeoPackage is in the CRS of the map;
    GeoJSON is in longitude and latitude (RFC 7946).

    Args:
        classes_path: file of classes, one band uint8 or uint16; invalid pixels are those of its mask, and 255 if that
            is no class.
        confidence_path: file of the largest probability on the same grid, float32; None for none.
        classes: names in order of index.
        outputs: files to write, by kind, `gpkg` or `geojson`; each is replaced atomically.
        values: of each class in the file; None for class indices.
        min_area: smallest area in square meters; smaller polygons are left out.
        simplify: tolerance in pixels, the root of the area of the largest triangle that is cut off; borders that
            polygons share stay shared. 0 for edges along pixels.
        block: rows and columns to read at once.

    Raises:
        DataError: a file cannot be read or written, the two are not on the same grid, a pixel has a value without a
            class, or GeoJSON or a smallest area is requested for a map without CRS.
    """
    known = values or range(len(classes))
    with _opened(classes_path, confidence_path) as (file, other):
        grid = _grid(file)
        _refuse_placeless(classes_path, grid, outputs, min_area)
        found = outline(lambda window: _read(file, other, window, known), grid.size, block)
    table = {
        "class_id": np.asarray(known, np.int32)[found.classes],
        "class": np.array([classes[index] for index in found.classes], object),
        "pixels": np.rint(shapely.area(found.polygons)).astype(np.int64),
        "area_m2": square_meters(found.polygons, grid),
        "confidence": found.confidence,
    }
    kept = ~(table["area_m2"] < min_area)
    table = {name: column[kept] for name, column in table.items()}
    polygons = _simplified(found.polygons[kept], simplify) if simplify else found.polygons[kept]
    geometry = shapely.to_wkb(_placed(polygons, grid))
    for kind, path in outputs.items():
        _write(kind, path, geometry, table, grid.crs)


@contextmanager
def _opened(classes_path: Path, confidence_path: Path | None) -> Iterator[tuple[Any, Any]]:
    """Both files of a map, open; None for no second. Raises DataError."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with reading(str(classes_path)):
            file = stack.enter_context(rasterio.open(classes_path))
        other = None
        if confidence_path is not None:
            with reading(str(confidence_path)):
                other = stack.enter_context(rasterio.open(confidence_path))
            if _grid(other) != _grid(file):
                raise DataError(f"{confidence_path} is not on the grid of {classes_path}. Predict both again.")
        yield file, other


def _refuse_placeless(path: Path, grid: Grid, outputs: Mapping[Kind, Path], min_area: float) -> None:
    """Raise DataError where what is wanted needs a place on Earth, which the grid has not."""
    if "geojson" in outputs and not grid.crs:
        raise DataError(
            f"{path} has no coordinate reference system, so {outputs['geojson']}, which is in longitude and latitude, "
            "cannot be made.\nWrite a GeoPackage, which then has pixel coordinates."
        )
    if min_area and not grid.crs:
        raise DataError(f"{path} has no coordinate reference system, so its polygons have no area. Leave out min_area.")


def _grid(file: Any) -> Grid:
    return Grid(file.height, file.width, tuple(file.transform)[:6], file.crs.to_wkt() if file.crs else "")


def _simplified(polygons: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Polygons with simpler outlines, equal where neighbors share them."""
    # Where three polygons meet, each needs a vertex: one at every pixel.
    noded = shapely.transform(shapely.segmentize(polygons, 1), np.round)
    simple: NDArray[Any] = shapely.coverage_simplify(noded, tolerance)
    return simple


def _read(file: Any, other: Any, window: Window, known: Sequence[int]) -> Block:
    """A window of both files, class indices of values. Raises DataError."""
    rows, columns = window
    box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)  # type: ignore[no-untyped-call,unused-ignore]
    with reading(file.name):
        values = file.read(1, window=box)
        valid = (file.read_masks(1, window=box) > 0) & ((values != IGNORE) | (IGNORE in known))
    classes = indices(values, known, IGNORE).astype(np.uint8)
    if (strange := values[valid & (classes == IGNORE)]).size:
        wanted = some([str(value) for value in known], 6)
        raise DataError(f"{file.name} holds the value {strange.max()}, but its classes have the values {wanted}.")
    if other is None:
        return Block(classes, valid)
    with reading(other.name):
        return Block(classes, valid, other.read(1, window=box))


def _placed(polygons: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """The polygons in the coordinates of the grid."""
    a, b, c, d, e, f = grid.transform
    placed: NDArray[Any] = shapely.transform(
        polygons, lambda at: np.stack([a * at[:, 0] + b * at[:, 1] + c, d * at[:, 0] + e * at[:, 1] + f], axis=1)
    )
    return placed


def _write(kind: Kind, path: Path, geometry: NDArray[Any], table: Mapping[str, NDArray[Any]], crs: str) -> None:
    """Write one file. Raises DataError."""
    # GDAL itself converts GeoJSON to longitude and latitude, and orders its rings. Nine digits are 0.1 mm.
    how = {"driver": "GPKG"}
    if kind == "geojson":
        how = {"driver": "GeoJSON", "RFC7946": "YES", "COORDINATE_PRECISION": "9"}
    try:
        with _replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a temporary file extension, and an undefined CRS
            pyogrio.raw.write(
                temporary, geometry, list(table.values()), list(table), layer=LAYER, geometry_type="Polygon",
                crs=crs or None, **how,
            )  # fmt: skip
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{path} cannot be written: {reason}. Choose another --output.") from None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file, which replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.unlink()  # GDAL must create the file itself
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        rename_durably(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
