"""labelme: a JSON file beside each image."""

import base64
import io
import json
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from farcluss.annotations.reading import base_name, drawings_in, parse, peek, picture
from farcluss.annotations.shapes import Area, Bitmap, Drawing, Export, Point, Polygon, Shape, ellipse

KIND = "a labelme file"
IGNORED, BACKGROUND = "__ignore__", "_background_"


def is_labelme(path: Path) -> bool:
    """Whether a JSON file looks like one."""
    words = ['"shapes"'] if peek(path, ['"shapes"']) else ['"imageData"']  # which may be long and come first
    return path.suffix.lower() == ".json" and peek(path, words) and not peek(path, ['"annotations"'])


def read_labelme(root: Path, file: str | None) -> Export:
    """The JSON files below the root. Raises DataError."""
    drawings = drawings_in(root, file, [".json"], is_labelme, lambda path: [parse(path, KIND, partial(_read, path))])
    return Export.of(drawings, ignored=[IGNORED])


def _read(path: Path, table: dict[str, Any]) -> Drawing:
    shapes = [Shape(_label(each["label"]), _area(each)) for each in table["shapes"]]
    size = (int(table["imageHeight"]), int(table["imageWidth"])) if table.get("imageHeight") else None
    given = path.parent / PureWindowsPath(table["imagePath"]).as_posix()
    image = given if given.is_file() else path.parent / base_name(table["imagePath"])
    return Drawing(os.path.normpath(image), tuple(shapes), size, str(path))


def _label(name: str) -> str:
    return "background" if name == BACKGROUND else str(name)


def _area(shape: dict[str, Any]) -> Area:
    kind, corners = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "polygon":
        return Polygon([corners])
    if kind == "rectangle":
        (left, top), (right, bottom) = corners[0], corners[-1]
        return Polygon([[(left, top), (right, top), (right, bottom), (left, bottom)]])
    if kind == "circle":
        (x, y), edge = corners
        radius = math.hypot(edge[0] - x, edge[1] - y)
        return ellipse((x, y), (radius, radius))
    if kind == "mask":
        left, top = (round(min(each)) for each in zip(*corners, strict=True))
        return Bitmap(picture(base64.b64decode(shape["mask"])), left, top)
    raise ValueError(f"a {kind} has no area; draw a polygon, rectangle, circle or mask")


def to_labelme(image: str, size: tuple[int, int], shapes: Sequence[tuple[str, Polygon, float]]) -> str:
    """A labelme file with areas by label, and how sure each is as its description.

    An area with holes becomes a mask, as labelme's polygons have none; so does one without three corners.
    """
    found = []
    for label, area, confidence in shapes:
        ring = area.parts[0]
        shape = _masked(area, size) if area.holes or len(ring) < 3 else _outlined(ring)
        about: dict[str, Any] = {"label": label, "description": f"confidence {confidence:.2f}"}
        found.append(about | {"group_id": None, "flags": {}} | shape)
    whole = {"imagePath": image, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
    return json.dumps({"version": "5.5.0", "flags": {}, "shapes": found, **whole}, indent=1)


def _outlined(ring: Sequence[Point]) -> dict[str, Any]:
    return {"shape_type": "polygon", "points": [list(point) for point in ring], "mask": None}


def _masked(area: Polygon, size: tuple[int, int]) -> dict[str, Any]:
    pixels = area.pixels(size)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    (top, bottom), (left, right) = (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))
    buffer = io.BytesIO()
    Image.fromarray(pixels[top : bottom + 1, left : right + 1]).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    return {"shape_type": "mask", "points": [[left, top], [right, bottom]], "mask": mask}
