"""Polygons whose pixels are of another class than a look at them suggests: thin, hidden, overlapping, crossed."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farcluss.data.base import Window
from farcluss.errors import DataError, counted
from farcluss_remote_sensing.files import Grid
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.scenes import vector_label
from farcluss_remote_sensing.vectors import draw, in_window, read_polygons


@dataclass
class Counts:
    """What was found, by label file.

    Attributes:
        lost: polygons that cover no pixel.
        contested: pixels in polygons of several classes.
        crossed: polygons that are not valid.
    """

    lost: Counter[str] = field(default_factory=Counter)
    contested: Counter[str] = field(default_factory=Counter)
    crossed: Counter[str] = field(default_factory=Counter)


def polygon_remarks(labels: LabelReader, places: Iterable[tuple[str, Grid, Window]]) -> list[str]:
    """A line for each kind of polygon that labels nothing, or something else than is drawn.

    Args:
        labels: of the data set.
        places: label, grid of its scene, and a window of it. Labels that cannot be read are left to whoever reads them.
    """
    scenes: dict[tuple[str, Grid], list[Window]] = {}
    for label, grid, window in places:
        if vector_label(label):
            scenes.setdefault((label, grid), []).append(window)
    counts = Counts()
    for (label, grid), windows in scenes.items():
        try:
            _look(labels, label, grid, windows, counts)
        except DataError:
            continue
    return [*_lost(counts.lost, labels), *_contested(counts.contested, labels), *_crossed(counts.crossed)]


def _look(labels: LabelReader, label: str, grid: Grid, windows: Iterable[Window], counts: Counts) -> None:
    """Add what windows of a scene show. Raises DataError."""
    import shapely

    path, layer = vector_label(label) or (label, "")
    found = read_polygons(path, layer, labels.rules.field, grid)
    within = np.zeros(len(found.shapes), bool)
    seen = np.zeros(len(found.shapes) + 1, bool)  # and one for pixels of none, -1
    middles = shapely.bounds(found.shapes).reshape(-1, 2, 2).mean(1)  # column and row of each
    contested, touched, none = 0, labels.rules.all_touched, np.int32(-1)
    for window in windows:
        met, shapes, classes = in_window(path, layer, grid, window, labels.masks, labels.rules)
        low, high = ([part.start for part in window[::-1]], [part.stop for part in window[::-1]])
        within[met] |= ((middles[met] >= low) & (middles[met] < high)).all(1)
        # The class of a pixel depends on the order of drawing where the first and the last of its polygons differ.
        orders = slice(None), slice(None, None, -1)
        last, first = (draw(shapes[way], classes[way].astype(np.int32), none, window, False) for way in orders)
        contested += int((first != last).sum())
        for way in orders:
            seen[draw(shapes[way], met[way].astype(np.int32), none, window, touched)] = True
    alone = found.shapes[within & ~seen[:-1]]
    counts.lost[path] += sum(not _covers_any(shape, touched) for shape in alone)
    counts.contested[path] += contested
    counts.crossed[path] += int((within & found.crossed).sum())


def _covers_any(shape: Any, all_touched: bool) -> bool:
    """Whether any pixel belongs to a polygon that nothing else covers."""
    left, top, right, bottom = map(math.floor, shape.bounds)
    window = slice(top, bottom + 1), slice(left, right + 1)
    shapes = np.array([shape], object)
    return bool(draw(shapes, np.ones(1, np.uint8), np.uint8(0), window, all_touched).any())


def _where(found: Counter[str]) -> str:
    """How many label files have any, and the first."""
    files = [path for path, number in found.items() if number]
    return f"in {files[0]}" if len(files) == 1 else f"in {len(files)} label files, the first is {files[0]}"


def _lost(found: Counter[str], labels: LabelReader) -> Iterable[str]:
    if total := found.total():
        cure = "" if labels.rules.all_touched else " data.layout.all_touched = true draws what touches a pixel."
        yield f"{counted(total, 'polygon')} ({_where(found)}) without a pixel center inside label nothing.{cure}"


def _contested(found: Counter[str], labels: LabelReader) -> Iterable[str]:
    if (total := found.total()) and labels.rules.overlap == "feature":
        yield (
            f"Polygons of different classes overlap in {counted(total, 'pixel')} ({_where(found)}); the later one of a "
            'file counts. data.layout.overlap = "class": the one whose class is later in data.classes.'
        )


def _crossed(found: Counter[str]) -> Iterable[str]:
    if total := found.total():
        yield (
            f"{counted(total, 'polygon')} ({_where(found)}) with outlines that cross or touch themselves: what is "
            "enclosed twice lies outside. Repair them, for example by `Fix geometries` of QGIS."
        )
