"""Polygons as labels: drawn on the grid of their scene, each pixel by the polygon that covers its center."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Window
from farcluss.data.masks import MaskMap
from farcluss.errors import DataError, counted
from farcluss_remote_sensing.files import Grid
from farcluss_remote_sensing.tiles import nth

KEPT = 64
"""Maximum number of layers, clipped to a scene, that a process caches."""

PARTS = 64
"""Segments per diagonal of the scene for reprojected edges, as straight lines bend in another system."""

FINE = 1024
"""Coordinates are rounded to 1/1024 pixel, so that a window gets the same pixels as the whole scene."""


Overlap = Literal["feature", "class"]
"""Which polygon counts where several overlap: the later in the file, or the one whose class is later."""


@dataclass(frozen=True)
class Rules:
    """How polygons become classes.

    Attributes:
        field: attribute that holds a class name or value; empty where all polygons are of one class: the first that is
            not `outside`.
        outside: class of pixels that no polygon covers; empty for `IGNORE`.
        all_touched: whether a pixel is covered that a polygon only touches; else its center must be.
        overlap: which polygon counts where several overlap.
    """

    field: str = ""
    outside: str = ""
    all_touched: bool = False
    overlap: Overlap = "feature"


@dataclass(frozen=True)
class Polygons:
    """The polygons of a layer that meet a scene.

    Attributes:
        shapes: their geometries, valid, in columns and rows of the scene.
        values: of the attribute with their class; None where there is no such attribute.
        tree: spatial index.
        crossed: which were not valid in the file.
    """

    shapes: NDArray[np.object_]
    values: NDArray[Any] | None
    tree: Any
    crossed: NDArray[np.bool_]


def rasterize(
    path: str, layer: str, grid: Grid, window: Window, shrink: int, masks: MaskMap, rules: Rules
) -> NDArray[np.uint8]:
    """Class indices `(ceil(h / shrink), ceil(w / shrink))` of a window from polygons.

    Args:
        path: vector file.
        layer: of it; empty for its only one.
        grid: of the scene.
        window: rows and columns of it.
        shrink: use only every n-th row and column.
        masks: classes by name and by value.
        rules: which polygon a pixel belongs to.

    Raises:
        DataError: the file, the layer or the attribute cannot be read, or holds what no class has.
    """
    _, shapes, classes = in_window(path, layer, grid, window, masks, rules)
    rest = masks.names.index(rules.outside) if rules.outside else IGNORE
    drawn = draw(shapes, classes, np.uint8(rest), window, rules.all_touched)
    return drawn if shrink == 1 else drawn[np.ix_(*(nth(side, shrink) for side in drawn.shape))]


def in_window(
    path: str, layer: str, grid: Grid, window: Window, masks: MaskMap, rules: Rules
) -> tuple[NDArray[np.intp], NDArray[np.object_], NDArray[np.uint8]]:
    """The polygons that meet a window, in the order of drawing: number in `read_polygons`, shape there, and class.

    See `rasterize`.
    """
    import shapely

    found = read_polygons(path, layer, rules.field, grid)
    rows, columns = window
    met = np.sort(found.tree.query(shapely.box(columns.start, rows.start, columns.stop, rows.stop)))
    if found.values is None:
        classes = np.full(len(met), 1 if masks.names[0] == rules.outside else 0, np.uint8)
    else:
        classes = class_of(found.values[met], masks, f"{path}, attribute {rules.field!r},")
    if rules.overlap == "class":
        order = np.argsort(classes, kind="stable")
        met, classes = met[order], classes[order]
    # One pixel more, so that no pixel center lies on the cut.
    box = (columns.start - 1, rows.start - 1, columns.stop + 1, rows.stop + 1)
    return met, _cut(found.shapes[met], box), classes


def draw(
    shapes: NDArray[np.object_], values: NDArray[Any], rest: Any, window: Window, all_touched: bool
) -> NDArray[Any]:
    """Values `(h, w)`, of the type of `rest`: that of the last shape that covers a pixel; `rest` where none does."""
    import shapely
    from rasterio.features import rasterize as draw_shapes
    from rasterio.transform import Affine

    drawn = np.full([part.stop - part.start for part in window], rest)
    there = ~shapely.is_empty(shapes)
    if there.any():
        pairs = zip(shapes[there], values[there].tolist(), strict=True)
        place = Affine.translation(window[1].start, window[0].start)
        draw_shapes(pairs, out=drawn, transform=place, all_touched=all_touched)
    return drawn


def class_of(values: NDArray[Any], masks: MaskMap, where: str) -> NDArray[np.uint8]:
    """Class index, or `IGNORE`, of each value `(N,)` of an attribute.

    Texts are class names, or else whole numbers; numbers are label values. `where` is for messages.

    Raises:
        DataError: a value is of no class, or missing.
    """
    names = {name: index for index, name in enumerate(masks.names)}
    if values.dtype.kind not in "OU":
        return _by_value(values, masks, where)
    if missing := sum(value is None for value in values):
        raise DataError(_empty(where, missing))
    texts = [str(value).strip() for value in values]
    strange = [text for text in texts if text not in names]
    if not strange:
        return np.array([names[text] for text in texts], np.uint8)
    if all(text.removeprefix("-").isdecimal() for text in texts):
        return _by_value(np.array([int(text) for text in texts]), masks, where)
    raise DataError(
        f"{where} holds {strange[0]!r}; classes are {', '.join(masks.names)}.\n"
        "Rename it, name it in data.classes, or choose another data.layout.field."
    )


def _by_value(values: NDArray[Any], masks: MaskMap, where: str) -> NDArray[np.uint8]:
    if masks.colors:
        raise DataError(
            f"{where} holds numbers, but the classes of this recipe are colors; give values in data.classes."
        )
    if values.dtype.kind == "f" and (missing := int(np.isnan(values).sum())):
        raise DataError(_empty(where, missing))
    return np.asarray(masks.apply(values[None], where)[0])


def _empty(where: str, missing: int) -> str:
    return f"{where} is empty for {counted(missing, 'polygon')} of a window. Fill it in, or delete them."


@lru_cache(KEPT)
def read_polygons(path: str, layer: str, field: str, grid: Grid) -> Polygons:
    """The polygons of a layer that meet a grid, read once per process. See `rasterize`."""
    import pyogrio
    import shapely

    try:
        layer = _layer(path, layer, [str(name) for name, _ in pyogrio.list_layers(path)])
        facts = pyogrio.read_info(path, layer=layer)
        known = field in facts["fields"]
        if facts["features"]:  # GeoJSON without features has no attributes either
            _check_field(path, field, [str(name) for name in facts["fields"]])
        crs = _crs(path, facts["crs"], grid)
        box = _bounds(path, crs, grid)
        chosen: dict[str, Any] = {"columns": [field] if known else [], "bbox": box, "force_2d": True}
        _, _, geometry, values = pyogrio.raw.read(path, layer=layer, **chosen)
    except (RuntimeError, OSError) as error:  # all of pyogrio's errors are RuntimeErrors
        raise DataError(_unreadable(path, error)) from None
    geometry = np.array([] if geometry is None else geometry, object)
    there = np.array([bool(each) for each in geometry], bool)
    shapes = shapely.from_wkb(geometry[there])
    if strange := sorted({each.geom_type for each in shapes} - {"Polygon", "MultiPolygon"}):
        raise DataError(f"{path} holds geometries of type {strange[0]}; labels are polygons. Buffer or remove them.")
    valid = shapely.is_valid(shapes)
    shapes = _on_pixels(path, _valid(shapes, valid), crs, box, grid)
    full = ~shapely.is_empty(shapes)
    named = (values[0] if known else np.array([], object))[there][full] if field else None
    return Polygons(shapes[full], named, shapely.STRtree(shapes[full]), ~valid[full])


def _unreadable(path: str, error: Exception) -> str:
    if not os.path.exists(path):
        return f"{path} does not exist. Check data.root and the lists."
    reason = str(error).partition("\n")[0].rstrip(".")
    return f"{path} cannot be read as polygons: {reason}. Replace it or take it out."


def _layer(path: str, layer: str, known: list[str]) -> str:
    """The layer to read. Raises DataError: there is no such layer, or several and none is named."""
    if layer and layer not in known:
        raise DataError(f"{path} has no layer {layer!r}; it has {', '.join(known)}.")
    if not layer and len(known) != 1:
        names = ", ".join(known) or "none"
        raise DataError(f"{path} has {len(known)} layers ({names}); name one: {os.path.basename(path)}:LAYER.")
    return layer or known[0]


def _check_field(path: str, field: str, known: list[str]) -> None:
    if field and field not in known:
        raise DataError(
            f"{path} has no attribute {field!r}; it has {', '.join(known) or 'none'}. Set data.layout.field to one."
        )


def _crs(path: str, text: str | None, grid: Grid) -> Any:
    """The coordinate system of a layer; None where it is that of the grid, or where neither has one."""
    from rasterio.crs import CRS

    if text and not grid.crs:
        raise DataError(
            f"Its scene has no coordinate system, but {path} has one. If it is the scene's too: "
            "rio edit-info --crs EPSG:CODE SCENE"
        )
    if grid.crs and not text:
        raise DataError(f"{path} has no coordinate system, but its scene has one. {_assign(path)}")
    crs = CRS.from_user_input(text) if text else None
    return None if crs is None or crs == CRS.from_wkt(grid.crs) else crs


def _assign(path: str) -> str:
    """How to say in which coordinate system polygons are."""
    if not path.lower().endswith(".shp"):
        return "Assign it in QGIS (Assign projection), or with ogr2ogr -a_srs EPSG:CODE NEW OLD."
    beside = f"{os.path.splitext(path)[0]}.prj"
    return (
        "Put its .prj beside it; if that is lost, write it, with the CODE that the data are in:\n"
        f"python -c \"from rasterio.crs import CRS; print(CRS.from_epsg(CODE).to_wkt(version='WKT1_ESRI'))\" > {beside}"
    )


def _bounds(path: str, crs: Any, grid: Grid) -> tuple[float, ...]:
    """Bounds of a grid in a coordinate system (None: its own). Raises DataError: it cannot be transformed."""
    from rasterio.warp import transform_bounds

    corners = grid.corners()
    own = (*corners.min(0).tolist(), *corners.max(0).tolist())
    if crs is None:
        return own
    with _transforming(path):
        box = transform_bounds(grid.crs, crs, *own, densify_pts=PARTS)
        if not np.isfinite(box).all() or box[0] > box[2]:
            raise ValueError
    return tuple(box)


@contextmanager
def _transforming(path: str) -> Iterator[None]:
    """Turn errors of transformations between coordinate systems into a DataError with advice."""
    try:
        yield
    except Exception:  # PROJ's errors have no public class
        raise DataError(
            f"{path} is in a coordinate system that cannot be transformed to that of its scene.\n"
            "Reproject the polygons: ogr2ogr -t_srs SYSTEM new.gpkg old.gpkg"
        ) from None


def _near(shapes: NDArray[np.object_], box: tuple[float, ...]) -> NDArray[np.object_]:
    """Geometries without the parts far from a box, which cost time and may have no coordinates in another system."""
    wide, high = box[2] - box[0], box[3] - box[1]
    return _cut(shapes, (box[0] - wide, box[1] - high, box[2] + wide, box[3] + high))


def _valid(shapes: NDArray[np.object_], valid: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Geometries, with those that are not valid made so, as only valid ones can be clipped."""
    import shapely

    shapes = shapes.copy()
    shapes[~valid] = shapely.buffer(shapely.make_valid(shapes[~valid]), 0)
    return shapes


def _cut(shapes: NDArray[np.object_], box: tuple[float, ...]) -> NDArray[np.object_]:
    """Valid geometries, clipped to a box."""
    import shapely

    shapes, beyond = shapes.copy(), ~shapely.within(shapely.box(*shapely.bounds(shapes).T), shapely.box(*box))
    shapes[beyond] = shapely.clip_by_rect(shapes[beyond], *box)
    return shapes


def _on_pixels(
    path: str, shapes: NDArray[np.object_], crs: Any, box: tuple[float, ...], grid: Grid
) -> NDArray[np.object_]:
    """Valid geometries in columns and rows of a grid, from coordinates in `crs` (None: in those of the grid)."""
    import shapely
    from rasterio.transform import Affine
    from rasterio.warp import transform

    inverse = ~Affine(*grid.transform)

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points.T
        if crs is not None:
            with _transforming(path):
                x, y = (np.array(each) for each in transform(crs, grid.crs, x, y))
        columns, rows = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
        return np.round(np.stack([columns, rows], 1) * FINE) / FINE

    shapes = _near(shapes, box)
    if crs is not None:
        shapes = shapely.segmentize(shapes, np.hypot(box[2] - box[0], box[3] - box[1]) / PARTS)
    shapes = shapely.transform(shapes, place)
    return _valid(shapes, shapely.is_valid(shapes))
