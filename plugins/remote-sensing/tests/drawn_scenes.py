"""Scenes drawn for tests: bands that tell classes apart, on every kind of grid."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import shapes
from rasterio.transform import Affine

CLASSES = ("water", "field", "forest", "town")
UTM = "EPSG:32633"
NORTH_UP = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
ROTATED = Affine.translation(500_000.0, 5_000_000.0) @ Affine.rotation(31.0) @ Affine.scale(2.5, -2.5)
GEOGRAPHIC = Affine(1e-4 / 3, 0.0, 15.0 + 1 / 7, 0.0, -1e-4 / 3, 50.0 + 1 / 9)


@dataclass(frozen=True)
class Drawing:
    """How a scene is drawn.

    Attributes:
        size: rows and columns; no tile divides the default.
        bands: number of bands.
        dtype: uint8, uint16, int16 or float32.
        crs: of the file; None for a picture without place.
        transform: of the file.
        nodata: value of invalid pixels; None for a file without.
        collar: invalid columns at the left; there is a hole of invalid pixels inside as well. 0 for neither.
        seed: of content.
    """

    size: tuple[int, int] = (70, 53)
    bands: int = 5
    dtype: str = "uint16"
    crs: str | None = UTM
    transform: Affine = NORTH_UP
    nodata: float | None = None
    collar: int = 0
    seed: int = 0

    def but(self, **changes: Any) -> "Drawing":
        """This drawing, changed."""
        return replace(self, **changes)

    def classes(self) -> NDArray[np.uint8]:
        """Class index of each pixel `(H, W)`: smooth regions, all of `CLASSES` in each scene."""
        rng = np.random.default_rng([self.seed, 0])
        rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in self.size), indexing="ij")
        waves = sum(
            np.sin(2 * np.pi * (rng.uniform(0.5, 2) * rows + rng.uniform(0.5, 2) * columns) + rng.uniform(0, 6))
            for _ in range(4)
        )
        return np.searchsorted(np.quantile(waves, [0.25, 0.5, 0.75]), waves).astype(np.uint8)

    def invalid(self) -> NDArray[np.bool_]:
        """`(H, W)`: the collar and the hole."""
        found = np.zeros(self.size, bool)
        if self.collar:
            found[:, : self.collar] = True
            found[self.size[0] // 2 : self.size[0] // 2 + 5, self.size[1] // 2 : self.size[1] // 2 + 7] = True
        return found

    def values(self) -> NDArray[Any]:
        """Bands `(C, H, W)`: a level per class and band, with noise; `nodata` (NaN without one) where invalid."""
        rng = np.random.default_rng([self.seed, 1])
        levels = np.random.default_rng(7).permuted(np.linspace(0.2, 0.8, 4 * self.bands).reshape(self.bands, 4), axis=1)
        image = levels[:, self.classes()] + rng.normal(0, 0.03, (self.bands, *self.size))
        top = {"uint8": 255, "uint16": 10_000, "int16": 10_000, "float32": 1}[self.dtype]
        values = (image.clip(0.05, 0.95) * top).astype(self.dtype)
        invalid = self.invalid()
        if invalid.any():
            values[:, invalid] = np.nan if self.nodata is None and self.dtype == "float32" else self.nodata or 0
        return values


def write(path: Path, array: NDArray[Any], drawing: Drawing, **profile: Any) -> Path:
    """Write an array `(C, H, W)` or `(H, W)` on the grid of a drawing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = array[None] if array.ndim == 2 else array
    facts = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2],
             "dtype": bands.dtype, "crs": drawing.crs, "transform": drawing.transform}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pictures without place are meant to be
        with rasterio.open(path, "w", **(facts | profile)) as file:
            file.write(bands)
    return path


def draw_scene(path: Path, drawing: Drawing = Drawing()) -> Path:
    """Write the bands of a drawing as GeoTIFF."""
    return write(path, drawing.values(), drawing, nodata=drawing.nodata)


def draw_label(path: Path, drawing: Drawing = Drawing()) -> Path:
    """Write the classes of a drawing as GeoTIFF, values 1 to 4, 0 where it is invalid."""
    label = np.where(drawing.invalid(), 0, drawing.classes() + 1).astype(np.uint8)
    return write(path, label, drawing)


def draw_polygons(path: Path, drawing: Drawing = Drawing()) -> Path:
    """Write the classes of a drawing as polygons along the pixels, with the attributes `class` and `code`."""
    import pyogrio.raw
    import shapely
    from shapely.geometry import shape

    found = list(shapes(drawing.classes(), transform=drawing.transform))
    geometry = np.array([shapely.to_wkb(shape(each)) for each, _ in found], object)
    codes = np.array([int(value) for _, value in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)  # nor have these polygons a place
        pyogrio.raw.write(
            path, geometry, [np.array([CLASSES[code] for code in codes], object), codes], ["class", "code"],
            geometry_type="Polygon", crs=drawing.crs,
        )  # fmt: skip
    return path


def draw_tree(root: Path, drawing: Drawing = Drawing(), labeled: int = 2, unlabeled: int = 2) -> Path:
    """A tree of the layout `rasters`: `images/s0.tif` and so on, side by side, the first ones with `labels/`."""
    for number in range(labeled + unlabeled):
        east = Affine.translation(0, 0) if drawing.crs is None else Affine.translation(2000.0 * number, 0)
        one = drawing.but(seed=drawing.seed + number, transform=east @ drawing.transform)
        draw_scene(root / "images" / f"s{number}.tif", one)
        if number < labeled:
            draw_label(root / "labels" / f"s{number}.tif", one)
    return root
