"""Whether the files of a scene are on the same grid, from their headers; texts that describe differences."""

import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # PROJ's errors, which rasterio does not wrap
from rasterio.crs import CRS
from rasterio.transform import Affine

from farcluss.errors import DataError
from farcluss_remote_sensing.files import Grid

TOLERANCE = 0.01
"""Maximum distance in pixels between corners of equal grids."""
STEPS = 20
"""Segments per side of an outline, as straight lines are curves in another reference system."""

Outline = Any
"""A polygon of shapely, which is imported where it is needed."""


def difference(found: Grid, wanted: Grid) -> str:
    """The differences of two grids, with both values; empty if there are none.

    Missing metadata does not differ: pictures without georeference may accompany georeferenced files.
    """
    texts = []
    if found.size != wanted.size:
        texts.append(f"{_pixels(found)} pixels instead of {_pixels(wanted)}")
    if found.crs and wanted.crs and not same_crs(found.crs, wanted.crs):
        texts.append(f"{crs_name(found.crs)} instead of {crs_name(wanted.crs)}")
    elif found.size == wanted.size and (apart := distance(found, wanted)) > TOLERANCE:
        texts.append(f"{_place(found)} instead of {_place(wanted)}, up to {apart:.3g} pixels apart")
    return "; ".join(texts)


def distance(found: Grid, wanted: Grid) -> float:
    """Maximum distance in pixels between the corners of two grids of equal size; 0 if one has no transform."""
    transforms = Affine(*found.transform), Affine(*wanted.transform)
    if any(transform.is_identity for transform in transforms):
        return 0.0
    back = ~transforms[1]
    places = np.array([back @ tuple(corner) for corner in found.corners().tolist()])
    height, width = wanted.size
    return float(np.abs(places - [(0, 0), (width, 0), (width, height), (0, height)]).max())


def unplaceable(found: Grid, wanted: Grid) -> str:
    """Why a file cannot be resampled onto a grid; empty if it can, or need not."""
    if found == wanted:
        return ""
    if not (found.placed and wanted.placed):
        return "only one of them is georeferenced" if found.placed or wanted.placed else "neither is georeferenced"
    return "" if meets(outline(found, wanted.crs), wanted) else "it covers another area"


def outline(grid: Grid, crs: str) -> Outline:
    """The outline of a grid in a reference system."""
    import shapely

    found = shapely.Polygon(grid.corners())
    return moved(found, grid.crs, crs)


def meets(shape: Outline, grid: Grid) -> bool:
    """Whether a shape in the reference system of a grid covers any of it."""
    import shapely

    return bool(shapely.intersection(shape, shapely.Polygon(grid.corners())).area > 0)


def moved(shapes: Any, crs: str, target: str) -> Any:
    """Shapes (one, or an array) in another reference system; empty where they cannot be transformed.

    Without a reference system they are returned unchanged.
    """
    import shapely
    from rasterio.warp import transform

    if not crs or not target or same_crs(crs, target):
        return shapes

    def move(places: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transform(_crs(crs), _crs(target), places[:, 0], places[:, 1]))

    bounds = shapely.bounds(shapes)
    lengths = (bounds[..., 2:] - bounds[..., :2]).max(-1) / STEPS
    try:
        found = shapely.transform(shapely.segmentize(shapes, lengths), move)
    except CPLE_BaseError:  # coordinates that their system does not have, such as meters as degrees
        found = np.full(np.shape(shapes), shapely.Polygon(), object)[()]
    return np.where(np.isfinite(shapely.bounds(found)).all(-1), found, shapely.Polygon())[()]


def vector_problem(path: str, layer: str, grid: Grid) -> str:
    """Why polygons cannot be labels of a grid: they lie elsewhere; empty if they may be. Raises DataError."""
    import shapely

    bounds, crs = _extent(path, layer)
    if bounds is None:  # no polygons: nothing was mapped there
        return ""
    if meets(moved(shapely.box(*bounds), crs, grid.crs), grid):
        return ""
    inside = ", ".join(f"{value:.9g}" for value in bounds)
    west, south, east, north = outline(grid, "").bounds
    degrees = "; GeoJSON without a member `crs` is in degrees" if path.lower().endswith("json") else ""
    return (
        f"its polygons lie elsewhere: within {inside} ({crs_name(crs)}), the scene within {west:.9g}, {south:.9g}, "
        f"{east:.9g}, {north:.9g} ({crs_name(grid.crs)}){degrees}"
    )


@lru_cache(maxsize=64)
def _extent(path: str, layer: str) -> tuple[tuple[float, ...] | None, str]:
    """Bounds of the polygons of a file, and their reference system; cached, as many scenes may share a file."""
    import pyogrio

    try:
        facts = pyogrio.read_info(path, layer=layer or None, force_total_bounds=True)
    except IndexError:
        raise DataError(f"{path} cannot be read: it has no layers. Replace it or take it out.") from None
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        empty = os.path.isfile(path) and not os.path.getsize(path)
        reason = "it is empty (0 bytes)" if empty else str(error).partition("; It might")[0].rstrip(".")
        raise DataError(f"{path} cannot be read: {reason}. Replace it or take it out.") from None
    bounds = facts["total_bounds"]
    if bounds is None or not np.isfinite(bounds).all():
        return None, facts["crs"] or ""
    if bounds[0] == bounds[2] or bounds[1] == bounds[3]:
        raise DataError(f"{path} contains no polygons: everything lies on one line. Labels must be areas.")
    return tuple(map(float, bounds)), facts["crs"] or ""


@lru_cache(maxsize=256)
def same_crs(first: str, second: str) -> bool:
    """Whether two texts, WKT or such as `EPSG:32633`, mean the same reference system."""
    return first == second or bool(_crs(first) == _crs(second))


@lru_cache(maxsize=256)
def crs_name(crs: str) -> str:
    """A short name of a reference system."""
    if not crs:
        return "no reference system"
    text = str(_crs(crs).to_string())
    return text if text.startswith("EPSG") else text.partition('"')[2].partition('"')[0] or text


@lru_cache(maxsize=256)
def _crs(text: str) -> Any:
    return CRS.from_user_input(text)


def _pixels(grid: Grid) -> str:
    return f"{grid.width} x {grid.height}"


def _place(grid: Grid) -> str:
    a, b, c, d, e, f = grid.transform
    turned = "" if b == d == 0 else f", turned by {b:.9g}, {d:.9g}"
    return f"origin {c:.12g}, {f:.12g} and pixels of {a:.9g} x {e:.9g}{turned}"
