"""Areas of polygons in square meters, on the ellipsoid of their coordinate system.

Notation used for shapes: P polygons, V vertices of all of them.
"""

import re
from typing import Any

import numpy as np
import shapely
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # PROJ's errors, which rasterio does not wrap
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform

from farcluss_remote_sensing.files import Grid

ELLIPSOID = re.compile(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([\d.eE+-]+),\s*([\d.eE+-]+)')
"""Name, semi-major axis in meters, and inverse flattening, which is 0 for a sphere."""
DEGREE = 32
"""Of the polynomial for the area of a pixel: enough for a map of the whole world, of which few terms stay elsewhere."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)


def square_meters(polygons: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Area of each polygon `(P,)` on the ellipsoid; NaN where the pixels of the grid have no place on it.

    Args:
        polygons: `(P,)`, along pixel edges; vertices are (column, row).
        grid: of the pixels.
    """
    crs = CRS.from_wkt(grid.crs) if grid.crs else None
    if crs is None or not (crs.is_geographic or crs.is_projected) or not len(polygons):
        return np.full(len(polygons), np.nan)
    axis, inverse = map(float, _ellipsoid(grid.crs))
    flattening = 1 / inverse if inverse else 0.0
    if crs.is_geographic:
        return on_ellipsoid(polygons, grid, crs.units_factor[1], axis, flattening)
    return _of_projected(polygons, grid, axis, flattening)


def _ellipsoid(wkt: str) -> tuple[str, str]:
    match = ELLIPSOID.search(wkt)
    assert match is not None, wkt  # geographic and projected CRS have one
    return match[1], match[2]


def _of_projected(polygons: NDArray[Any], grid: Grid, axis: float, flattening: float) -> NDArray[np.float64]:
    """Area of each polygon `(P,)` along pixel edges, from the area of a pixel as a polynomial of column and row.

    With `F(column, row)` the area left of and above a corner, the areas of polygons are sums of `F` over vertices: by
    Green's theorem an upright edge adds the difference of `F` at its ends, and a level one nothing.
    """
    center, half = np.array([grid.width, grid.height]) / 2, np.array([grid.width, grid.height]) / 2

    def pixel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return _pixel_areas(center[0] + half[0] * x, center[1] + half[1] * y, grid, axis, flattening)

    nodes = chebyshev.chebpts1(DEGREE)
    values = pixel(*np.meshgrid(nodes, nodes, indexing="ij"))
    if not np.isfinite(values).all():
        return np.full(len(polygons), np.nan)
    to_terms = np.linalg.inv(chebyshev.chebvander(nodes, DEGREE - 1))
    terms = to_terms @ values @ to_terms.T
    kept = abs(terms) > 1e-8 * abs(terms[0, 0])
    terms = terms[: np.flatnonzero(kept.any(1))[-1] + 1, : np.flatnonzero(kept.any(0))[-1] + 1]
    whole = chebyshev.chebint(chebyshev.chebint(terms, axis=0), axis=1) * half.prod()
    _, vertices, (ring_ends, polygon_ends) = shapely.to_ragged_array(shapely.normalize(polygons))
    x, y = ((vertices - center) / half).T
    summed = chebyshev.chebval2d(x, y, whole)
    upright = vertices[1:, 0] == vertices[:-1, 0]
    parts = np.append(np.where(upright, np.diff(summed), 0), 0)
    parts[ring_ends[1:] - 1] = 0  # from a ring's end to the next
    rings = np.add.reduceat(parts, ring_ends[:-1])
    return np.asarray(abs(np.add.reduceat(rings, polygon_ends[:-1])))  # holes turn the other way


def _pixel_areas(
    columns: NDArray[np.float64], rows: NDArray[np.float64], grid: Grid, axis: float, flattening: float
) -> NDArray[np.float64]:
    """Area in square meters of a pixel at each place, of the shape of the places; NaN where there is no place."""
    a, b, c, d, e, f = grid.transform
    sphere = CRS.from_dict(proj="longlat", a=axis, b=axis * (1 - flattening), no_defs=True)

    def place(columns: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (a * columns + b * rows + c).ravel(), (d * columns + e * rows + f).ravel()
        longitude, latitude = np.radians(transform(CRS.from_wkt(grid.crs), sphere, x, y)[:2])
        squared = flattening * (2 - flattening)
        normal = axis / np.sqrt(1 - squared * np.sin(latitude) ** 2)
        flat = normal * np.cos(latitude)
        height = normal * (1 - squared) * np.sin(latitude)
        return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), height], axis=-1)

    # In space, where neither poles nor the date line are special; a thousandth of the scene loses few digits.
    step = max(grid.size) / 1000
    try:
        with np.errstate(invalid="ignore"):
            across, down = (
                (place(columns + x, rows + y) - place(columns - x, rows - y)) / (2 * step)
                for x, y in ((step, 0), (0, step))
            )
            found = np.linalg.norm(np.cross(across, down), axis=-1)
    except (RasterioError, CPLE_BaseError):
        found = np.full(columns.size, np.nan)
    return np.asarray(found).reshape(columns.shape)


def on_ellipsoid(
    polygons: NDArray[Any], grid: Grid, unit: float, axis: float, flattening: float
) -> NDArray[np.float64]:
    """Area of each polygon `(P,)`, whose edges are straight in longitude and latitude, as pixel edges are.

    With `S(lat)` the area between the equator and a parallel per radian of longitude, Green's theorem says that a ring
    encloses the integral of `S d(lon)` along it. The integrand is constant along a parallel, and `d(lon)` 0 along a
    meridian, so this is exact for north-up pixels; other edges use Gauss-Legendre quadrature with five points.

    Args:
        polygons: `(P,)`, vertices are (column, row).
        grid: of the pixels.
        unit: of longitude and latitude, in radians.
        axis: semi-major axis of the ellipsoid, in meters.
        flattening: of the ellipsoid; 0 for a sphere.
    """
    if not len(polygons):
        return np.empty(0)
    _, vertices, (ring_ends, polygon_ends) = shapely.to_ragged_array(polygons)
    a, b, _, d, e, f = grid.transform
    width, height = np.diff(vertices, axis=0).T  # of each edge; those from a ring's end to the next are not counted
    latitude = d * vertices[:-1, 0] + e * vertices[:-1, 1] + f
    places = latitude[:, None] + (d * width + e * height)[:, None] * (NODES + 1) / 2
    # A constant may be subtracted from S, as rings are closed: the value in the middle loses the least precision.
    middle = d * grid.width / 2 + e * grid.height / 2 + f
    strip = _up_to(places * unit, axis, flattening) - _up_to(np.array(middle * unit), axis, flattening)
    parts = np.append((a * width + b * height) * unit * (strip @ WEIGHTS) / 2, 0)
    parts[ring_ends[1:] - 1] = 0
    rings = abs(np.add.reduceat(parts, ring_ends[:-1]))
    holes = -rings
    holes[polygon_ends[:-1]] *= -1  # the first ring of each polygon is its outline
    areas: NDArray[np.float64] = np.add.reduceat(holes, polygon_ends[:-1])
    return areas


def _up_to(latitude: NDArray[np.float64], axis: float, flattening: float) -> NDArray[np.float64]:
    """Area in square meters between the equator and a latitude (radians), per radian of longitude.

    `b^2 / 2 (s / (1 - e^2 s^2) + artanh(e s) / e)`, s the sine of the latitude; for a sphere `r^2 s`.
    """
    sine = np.sin(latitude.clip(-np.pi / 2, np.pi / 2))  # a pixel may extend beyond a pole
    squared = flattening * (2 - flattening)
    if not squared:
        return np.asarray(axis**2 * sine)
    eccentricity = np.sqrt(squared)
    half = sine / (1 - squared * sine**2) + np.arctanh(eccentricity * sine) / eccentricity
    return np.asarray(axis**2 * (1 - squared) / 2 * half)
