"""Maps of a scene as files: exactly on its grid, with names and colors of classes."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which rasterio does not wrap
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_file
from rasterio.windows import Window as Box

from farcluss_remote_sensing.files import Grid, close_all
from farcluss_remote_sensing.legend import legend_of
from farcluss_remote_sensing.strips import Strips

if TYPE_CHECKING:
    from farcluss.inference.card import Card

BLOCK = 512
"""Pixels per side of the blocks of a file."""


@contextmanager
def _writing() -> Iterator[None]:
    """Turn all write errors of GDAL into one OSError; pictures without georeference are allowed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except (RasterioError, CPLE_BaseError):
        close_all()  # GDAL would report this error again for the next open file
        raise OSError(errno.EIO, "a map cannot be read back from the disk; the disk may be full") from None


def write_map(path: Path, strips: Strips, name: str, grid: Grid, card: "Card", cog: bool) -> None:
    """Join a map's strips in one file, with memory for a few blocks.

    Args:
        path: of the file.
        strips: all of them.
        name: of the map.
        grid: of the scene.
        card: names and colors of the classes, and where the weights come from.
        cog: a cloud-optimized file, with overviews; else a tiled one without.

    Raises:
        OSError: it cannot be written.
    """
    whole = name == "classes"
    plain = path.with_name(f"plain-{path.name}") if cog else path
    with _writing():
        _write_tiled(plain, strips, name, grid, card, fast=cog)
        if cog:
            how = {"OVERVIEW_RESAMPLING": "NEAREST" if whole else "AVERAGE", "PREDICTOR": "NO" if whole else "YES"}
            copy_file(plain, path, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=BLOCK, BIGTIFF="IF_SAFER", **how)
            plain.unlink()
        _read_back(path)


def _read_back(path: Path) -> None:
    """Read all blocks: GDAL reports no error when it writes blocks that do not fit on the disk."""
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            file.read(window=window)


def _write_tiled(path: Path, strips: Strips, name: str, grid: Grid, card: "Card", fast: bool) -> None:
    bands, dtype = strips.maps[name]
    whole, legend = name == "classes", legend_of(card)
    profile: dict[str, Any] = {
        "driver": "GTiff", "dtype": legend.dtype if whole else dtype, "count": bands,
        "height": grid.height, "width": grid.width,
        "crs": CRS.from_wkt(grid.crs) if grid.crs else None, "transform": rasterio.Affine(*grid.transform),
        "nodata": legend.nodata if whole else np.nan, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "zlevel": 1 if fast else 6, "predictor": 1 if whole else 3, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.update_tags(**legend.tags(), WEIGHTS=card.source, STEP=card.step)
        if whole:
            file.write_colormap(1, legend.colormap())
        elif name == "probs":
            for band, text in enumerate(card.classes, 1):
                file.set_band_description(band, text)
        for number in range(strips.count):
            _write_strip(file, strips, number, name, legend.table() if whole else None)


def _write_strip(file: Any, strips: Strips, number: int, name: str, table: NDArray[Any] | None) -> None:
    """Write a strip block by block; with a `table`, what it has for each value."""
    values = strips.open(number, name)
    top = strips.bounds(number)[0]
    for row in range(0, values.shape[0], BLOCK):
        for column in range(0, values.shape[2], BLOCK):
            block = values[row : row + BLOCK, :, column : column + BLOCK].swapaxes(0, 1)
            box = Box(column, top + row, block.shape[2], block.shape[1])  # type: ignore[no-untyped-call,unused-ignore]
            file.write(np.ascontiguousarray(block if table is None else table[block]), window=box)


def beside(path: Path) -> Path:
    """GDAL's sidecar file with metadata that a map's own cannot store, such as a rare coordinate reference system."""
    return path.with_name(f"{path.name}.aux.xml")
