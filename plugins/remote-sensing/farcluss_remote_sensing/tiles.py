"""Windows of scenes: the items of a data set, named by scene and bounds."""

import re
from math import ceil

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Window
from farcluss.errors import DataError

BOX = re.compile(r"(.*)\[(\d+):(\d+),(\d+):(\d+)\]")
"""`SCENE[FIRST_ROW:END_ROW,FIRST_COLUMN:END_COLUMN]`."""


def divide(low: int, high: int, side: int) -> list[tuple[int, int]]:
    """Bounds of the fewest, nearly equal parts of [low, high) with at most `side` each."""
    parts = max(1, ceil((high - low) / side))
    return [(low + (high - low) * n // parts, low + (high - low) * (n + 1) // parts) for n in range(parts)]


def tiles(box: Window, side: int) -> list[Window]:
    """Windows of `side` pixels per axis at most that cover a box, row by row."""
    rows, columns = (divide(part.start, part.stop, side) for part in box)
    return [(slice(*row), slice(*column)) for row in rows for column in columns]


def nth(side: int, shrink: int) -> NDArray[np.intp]:
    """Indices of every `shrink`th of `side` rows or columns, the same that GDAL reads from a file."""
    count = ceil(side / shrink)
    return ((np.arange(count) + 0.5) * side / count).astype(np.intp)


def whole(size: tuple[int, int]) -> Window:
    """The box of a whole scene."""
    return slice(0, size[0]), slice(0, size[1])


def name_of(scene: str, box: Window) -> str:
    """The name of a window of a scene in lists."""
    rows, columns = box
    return f"{scene}[{rows.start}:{rows.stop},{columns.start}:{columns.stop}]"


def parse_name(text: str) -> tuple[str, Window | None]:
    """Scene and window of a list's line; None for the whole scene. Raises DataError: an empty window."""
    match = BOX.fullmatch(text.strip())
    if match is None:
        return text.strip(), None
    first_row, end_row, first_column, end_column = map(int, match.groups()[1:])
    if first_row >= end_row or first_column >= end_column:
        raise DataError(f"{text.strip()!r} is an empty window; write SCENE[first row:end row,first column:end column].")
    return match[1], (slice(first_row, end_row), slice(first_column, end_column))
