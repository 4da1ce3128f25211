"""Supervisely: `meta.json`, and `ann/x.jpg.json` for each `img/x.jpg`."""

import base64
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from farcluss.annotations.reading import exports, parse, picture, split_of
from farcluss.annotations.shapes import Area, Bitmap, Drawing, Export, Polygon, Shape
from farcluss.data.searching import search

KIND = "a file of Supervisely"


def is_supervisely(path: Path) -> bool:
    """Whether a file is the `meta.json` of a project."""
    return path.name == "meta.json" and any(path.parent.glob("*/ann"))


def read_supervisely(root: Path, file: str | None) -> Export:
    """The data sets of a project: `NAME/img` and `NAME/ann`, where NAME may tell the split. Raises DataError."""
    meta = exports(root, file, [".json"], is_supervisely)[0]
    classes = parse(meta, KIND, lambda table: {each["title"]: each["color"] for each in table["classes"]})
    drawings: dict[str, list[Drawing]] = {"train": [], "val": [], "test": []}
    for folder in sorted(meta.parent.glob("*/ann")):
        for path in search(folder, [".json"]).files:
            image = folder.parent / "img" / path.relative_to(folder).with_suffix("")
            drawings[split_of(path, meta.parent)].append(parse(path, KIND, partial(_read, image, path)))
    return Export.of(drawings, classes, {name: str(color).lower() for name, color in classes.items()})


def _read(image: Path, path: Path, table: dict[str, Any]) -> Drawing:
    shapes = tuple(Shape(each["classTitle"], _area(each)) for each in table["objects"])
    return Drawing(str(image), shapes, (int(table["size"]["height"]), int(table["size"]["width"])), str(path))


def _area(each: dict[str, Any]) -> Area:
    kind = each["geometryType"]
    if kind == "bitmap":
        found = each["bitmap"]
        try:
            data = zlib.decompress(base64.b64decode(found["data"]))
        except zlib.error:
            raise ValueError("a bitmap is damaged") from None
        left, top = found["origin"]
        return Bitmap(picture(data), int(left), int(top))
    exterior = [(float(x), float(y)) for x, y in each["points"]["exterior"]]
    interior = [[(float(x), float(y)) for x, y in ring] for ring in each["points"]["interior"]]
    if kind == "rectangle":
        (left, top), (right, bottom) = exterior
        exterior = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind != "polygon":
        raise ValueError(f"a {kind} has no area")
    return Polygon([exterior], interior)
