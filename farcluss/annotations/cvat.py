"""CVAT for images: one XML file with polygons and masks. CVAT's masks are a layout of their own, see `coded`."""

from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from farcluss.annotations.reading import SPLITS, exports, parse_xml, peek
from farcluss.annotations.shapes import Area, Bitmap, Drawing, Export, Polygon, Shape, ellipse, rectangle

KIND = "an XML file of CVAT for images"
AREAS = ("polygon", "box", "mask", "ellipse")
NUMBERS: tuple[str, ...] = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "rotation")
NO_AREAS = {"polyline", "points", "skeleton", "cuboid", "tag"}


def is_cvat(path: Path) -> bool:
    """Whether an XML file looks like one."""
    return path.suffix.lower() == ".xml" and peek(path, ["<annotations", "<image"], 1 << 20)


def read_cvat(root: Path, file: str | None) -> Export:
    """The export in a file, or in all such files below the root. Raises DataError."""
    drawings: dict[str, list[Drawing]] = {"train": [], "val": [], "test": []}
    labels: list[str] = []
    colors: dict[str, str] = {}
    for path in exports(root, file, [".xml"], is_cvat):
        own, found = parse_xml(path, KIND, partial(_read, path))
        labels += own
        colors |= own
        for split, drawing in found:
            drawings[split].append(drawing)
    return Export.of(drawings, labels, {name: color for name, color in colors.items() if color})


def _read(path: Path, top: Element) -> tuple[dict[str, str], list[tuple[str, Drawing]]]:
    return _labels(top), _images(top, path)


def _labels(top: Element) -> dict[str, str]:
    """Colors by label; of files without a list of labels, as they are used."""
    listed = {label.findtext("name", ""): label.findtext("color", "") for label in top.iter("label")}
    used = {shape.attrib["label"]: "" for image in top.iter("image") for shape in image if shape.tag in AREAS}
    return {name: color.lower() for name, color in (listed or used).items() if name}


def _images(top: Element, path: Path) -> list[tuple[str, Drawing]]:
    found = []
    for image in top.iter("image"):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        if odd := {shape.tag for shape in image} & (NO_AREAS - {"tag"}):
            raise ValueError(f"image {image.attrib['name']} has a {min(odd)}, which is no area")
        drawn = [shape for shape in image if shape.tag in AREAS]
        drawn.sort(key=lambda shape: int(shape.attrib.get("z_order", 0)))  # of equal ones, the order of the file
        shapes = tuple(Shape(shape.attrib["label"], _area(shape)) for shape in drawn)
        split = SPLITS.get(image.attrib.get("subset", "").lower(), "train")
        found.append((split, Drawing(image.attrib["name"], shapes, size, str(path))))
    return found


def _area(shape: Element) -> Area:
    known = {name: float(shape.attrib[name]) for name in NUMBERS if name in shape.attrib}
    turn = known.get("rotation", 0.0)
    if shape.tag == "polygon":
        pairs = (pair.split(",") for pair in shape.attrib["points"].split(";"))
        return Polygon([[(float(x), float(y)) for x, y in pairs]])
    if shape.tag == "box":
        return _turned_box(known, turn)
    if shape.tag == "ellipse":
        return ellipse((known["cx"], known["cy"]), (known["rx"], known["ry"]), turn)
    counts = [int(each) for each in shape.attrib["rle"].split(",")]
    width, height = int(shape.attrib["width"]), int(shape.attrib["height"])
    if sum(counts) != width * height:
        raise ValueError(f"a mask of {width} x {height} pixels has run lengths of {sum(counts)}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)  # by rows, outside first
    return Bitmap(pixels, int(shape.attrib["left"]), int(shape.attrib["top"]))


def _turned_box(known: dict[str, float], degrees: float) -> Polygon:
    """A box, turned around its center."""
    width, height = known["xbr"] - known["xtl"], known["ybr"] - known["ytl"]
    middle = (known["xtl"] + width / 2, known["ytl"] + height / 2)
    (ring,) = rectangle(0, 0, width, height, degrees).parts
    x, y = (sum(each) / 4 for each in zip(*ring, strict=True))
    return Polygon([[(middle[0] + px - x, middle[1] + py - y) for px, py in ring]])
