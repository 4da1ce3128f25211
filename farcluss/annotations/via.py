"""VGG Image Annotator 2: `via_region_data.json`, or a project file."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from farcluss.annotations.reading import drawings_in, parse, peek
from farcluss.annotations.shapes import Area, Drawing, Export, Polygon, Shape, ellipse, rectangle

KIND = "a file of VIA with regions"


def is_via(path: Path) -> bool:
    """Whether a JSON file looks like one."""
    return path.suffix.lower() == ".json" and (peek(path, ['"regions"']) or peek(path, ['"_via_img_metadata"']))


def read_via(root: Path, file: str | None, attribute: str | None = None) -> Export:
    """The regions in a file, or in all such files below the root.

    Args:
        root: where to look.
        file: the file, relative to the root.
        attribute: of a region, that holds its label; default: the only one that regions have.

    Raises:
        DataError: a file is not of this kind, or regions have several attributes.
    """
    return Export.of(
        drawings_in(root, file, [".json"], is_via, lambda path: parse(path, KIND, partial(_read, path, attribute)))
    )


def _read(path: Path, attribute: str | None, table: dict[str, Any]) -> list[Drawing]:
    entries = list(table.get("_via_img_metadata", table).values())
    regions = [region for entry in entries for region in _regions(entry)]
    names = {name for region in regions for name in region["region_attributes"]}
    if attribute is None and len(names) > 1:
        raise ValueError(f"regions have the attributes {', '.join(sorted(names))}; name one by data.layout.attribute")
    name = attribute or next(iter(names), "")
    return [
        Drawing(entry["filename"], tuple(Shape(_label(each, name), _area(each["shape_attributes"])) for each in
                                         _regions(entry)), None, str(path))
        for entry in entries
    ]  # fmt: skip


def _regions(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """A list, or, in older files, a table by number."""
    regions = entry["regions"]
    return list(regions.values()) if isinstance(regions, dict) else list(regions)


def _label(region: dict[str, Any], name: str) -> str:
    label = region["region_attributes"][name]
    if not isinstance(label, str) or not label:
        raise ValueError(f"a region has the {name} {label!r}, not one label")
    return label


def _area(shape: dict[str, Any]) -> Area:
    kind = shape["name"]
    if kind == "polygon":
        return Polygon([list(zip(map(float, shape["all_points_x"]), map(float, shape["all_points_y"]), strict=True))])
    if kind == "rect":
        return rectangle(shape["x"], shape["y"], shape["width"], shape["height"])
    if kind == "circle":
        return ellipse((shape["cx"], shape["cy"]), (shape["r"], shape["r"]))
    if kind == "ellipse":
        return ellipse((shape["cx"], shape["cy"]), (shape["rx"], shape["ry"]), _degrees(shape.get("theta", 0)))
    raise ValueError(f"a {kind} has no area")


def _degrees(theta: float) -> float:
    return math.degrees(float(theta))
