"""Labels of scenes: pixels by value or color, or polygons by attribute."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Window
from farcluss.data.masks import MaskMap
from farcluss.errors import DataError
from farcluss_remote_sensing.files import Grid, read_colors, read_file, read_header
from farcluss_remote_sensing.scenes import vector_label
from farcluss_remote_sensing.tiles import nth
from farcluss_remote_sensing.vectors import Rules, rasterize


@dataclass(frozen=True)
class LabelReader:
    """Reads labels as class indices.

    Attributes:
        masks: from values or colors to classes.
        rules: for polygons.
        warp: whether labels on other grids are resampled (nearest) onto that of the scene.
        nodata: value of pixels without a label, in place of the files' own; None for that.
        band: number (from 1) of the band of labels; None for files whose bands are equal.
    """

    masks: MaskMap
    rules: Rules = field(default_factory=Rules)
    warp: bool = False
    nodata: float | None = None
    band: int | None = None

    def read(self, label: str, grid: Grid, window: Window, shrink: int = 1) -> NDArray[np.uint8]:
        """Class indices `(h, w)` of a window, `IGNORE` where there is no label.

        Raises:
            DataError: the label cannot be read, is on another grid, or holds values that no class has.
        """
        if vector := vector_label(label):
            return rasterize(*vector, grid, window, shrink, self.masks, self.rules)
        found = read_header(label).grid
        if not self.warp and found.size != grid.size:
            raise DataError(
                f"{label} is {found.width} x {found.height} pixels, its scene is {grid.width} x {grid.height}.\n"
                "Every label must be on the grid of its scene; data.layout.warp = true resamples those that are not."
            )
        values, valid = self._values(label, grid if self.warp and found != grid else None, window)
        if shrink > 1:  # not in `read_file`: overviews may average neighbors, which makes other classes
            places = np.ix_(*(nth(side, shrink) for side in values.shape[:2]))
            values, valid = values[places], None if valid is None else valid[places]
        if valid is None:
            return self.masks.apply(values, label)
        # Nodata pixels may have a value that no class has.
        known = np.full(valid.shape, IGNORE, np.uint8)
        known[valid] = self.masks.apply(values[valid][None], label)[0]
        return known

    def _values(self, label: str, grid: Grid | None, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Values `(h, w)`, or colors `(h, w, 3)` if classes are colors; and where they are valid."""
        bands = [self.band] if self.band else []
        values, valid = read_file(label, window, bands=bands, grid=grid, nodata=self.nodata)
        if self.nodata is not None and grid is None:
            valid = np.isfinite(values[0]) & (values[0] != self.nodata)
        if not self.masks.colors:
            if len(values) > 1 and (values != values[:1]).any():
                raise DataError(
                    f"{label} is a color mask, but the classes of this recipe are values.\n"
                    'Give the colors, [data.classes] with name = "#rrggbb", or the band, data.layout.label_band = 1.'
                )
            return values[0], valid
        if len(values) >= 3:
            return np.moveaxis(values[:3], 0, 2), valid
        if (table := read_colors(label)) is None:
            raise DataError(
                f"{label} holds values, but the classes of this recipe are colors; give values in data.classes."
            )
        colors = np.zeros((max(table) + 1, 3), np.uint8)
        colors[list(table)] = list(table.values())
        return colors[values[0]], valid
