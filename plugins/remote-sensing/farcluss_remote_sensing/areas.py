"""Areas of polygons in square meters, on planes and on ellipsoids.

Notation used for shapes: P polygons, V vertices of all of them.
"""

import re
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from farcluss_remote_sensing.files import Grid

ELLIPSOID = re.compile(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([\d.eE+-]+),\s*([\d.eE+-]+)')
"""Name, semi-major axis in meters, and inverse flattening, which is 0 for a sphere."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)


def square_meters(polygons: NDArray[Any], pixels: NDArray[np.int64], grid: Grid) -> NDArray[np.float64]:
    """Area of each polygon `(P,)`; NaN on a grid whose coordinates are neither lengths nor angles.

    On a plane it is the number of pixels times the area of one; in degrees it is the area on the ellipsoid of the CRS.

    Args:
        polygons: `(P,)`, vertices are (column, row).
        pixels: `(P,)` number of pixels of each.
        grid: of the pixels.
    """
    crs = CRS.from_wkt(grid.crs) if grid.crs else None
    if crs is not None and crs.is_geographic:
        axis, inverse = map(float, _ellipsoid(grid.crs))
        return on_ellipsoid(polygons, grid, crs.units_factor[1], axis, 1 / inverse if inverse else 0.0)
    if crs is None or not crs.is_projected:
        return np.full(len(polygons), np.nan)
    a, b, _, d, e, _ = grid.transform
    return np.asarray(pixels * (abs(a * e - b * d) * crs.linear_units_factor[1] ** 2), np.float64)


def _ellipsoid(wkt: str) -> tuple[str, str]:
    match = ELLIPSOID.search(wkt)
    assert match is not None, wkt  # a geographic CRS has one
    return match[1], match[2]


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
