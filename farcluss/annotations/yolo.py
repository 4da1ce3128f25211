"""YOLO polygons: a text file for each image, and `data.yaml` with the names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farcluss.annotations.reading import exports, parse_yaml
from farcluss.annotations.shapes import Drawing, Export, Point, Polygon, Shape, points
from farcluss.data.files import SUFFIXES, image_size
from farcluss.data.searching import search, search_any
from farcluss.errors import DataError
from farcluss.recipes.texts import read_text

KIND = "a data.yaml of YOLO"
KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def is_yolo(path: Path) -> bool:
    """Whether a YAML file looks like one, and there are labels as polygons."""
    try:
        table = parse_yaml(path, KIND, dict)
    except DataError:
        return False
    return "names" in table and not {"masks_dir"} & {*table} and any(key in table for key in KEYS)


def read_yolo(root: Path, file: str | None) -> Export:
    """The images of `data.yaml`, each with the polygons of its text file. Raises DataError."""
    path = exports(root, file, [".yaml", ".yml"], is_yolo)[0]
    table, names = parse_yaml(path, KIND, lambda found: (dict(found), _names(found["names"])))
    base = _base(path, table)
    drawings: dict[str, list[Drawing]] = {"train": [], "val": [], "test": []}
    for key, split in KEYS.items():
        if source := table.get(key):
            for place in source if isinstance(source, list) else [source]:
                drawings[split] += [_drawing(image, names, path) for image in _images(base, path.parent, str(place))]
    return Export.of(drawings, names.values())


def _names(names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {int(index): str(name) for index, name in sorted(pairs)}


def _base(path: Path, table: dict[str, Any]) -> Path:
    """The folder that `path` names: absolute ones are of another machine more often than not."""
    given = table.get("path")
    places = [path.parent / str(given), path.parent] if given else [path.parent]
    return next((place for place in places if place.is_dir()), path.parent)


def _images(base: Path, beside: Path, place: str) -> Sequence[Path]:
    """Images of a folder or a list. Roboflow writes `../train/images` where `train/images` is meant."""
    short = place.removeprefix("../").removeprefix("./")
    for folder in (base / place, beside / place, beside / short):
        if folder.suffix == ".txt" and folder.is_file():
            lines = read_text(folder, DataError).split("\n")
            return [folder.parent / line.strip() for line in lines if line.strip()]
        if folder.is_dir():
            return search(folder, SUFFIXES).files
    found = search_any(base, place, SUFFIXES).files
    if not found:
        raise DataError(f"There are no images in {base / place}, which data.yaml names. Check data.root.")
    return found


def labels_of(image: Path) -> Path:
    """The text file of an image: the last folder `images` in its path becomes `labels`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _drawing(image: Path, names: dict[int, str], listing: Path) -> Drawing:
    path = labels_of(image)
    if not path.is_file():
        return Drawing(str(image), (), None, str(listing))
    height, width = image_size(str(image))
    shapes = []
    for number, line in enumerate(read_text(path, DataError).splitlines(), 1):
        if line.strip():
            try:
                index, *flat = line.split()
                label, corners = names[int(index)], points(flat)
            except (ValueError, KeyError) as error:
                raise DataError(f"{path}, line {number}: {line[:60]!r} is no polygon of YOLO ({error}).") from None
            if len(corners) == 2:
                raise DataError(f"{path}, line {number} is a box, not a polygon. Export it for segmentation.")
            shapes.append(Shape(label, Polygon([_scaled(corners, width, height)])))
    return Drawing(str(image), tuple(shapes), None, str(path))


def _scaled(corners: Sequence[Point], width: int, height: int) -> list[Point]:
    """From shares of the image's sides to the pixels that they lie in, as the tool draws them."""
    return [(float(min(int(x * width), width - 1)), float(min(int(y * height), height - 1))) for x, y in corners]


def to_yolo(size: tuple[int, int], shapes: Sequence[tuple[int, Polygon]]) -> str:
    """Lines of polygons by class index; holes are left out, as the format has none.

    Corners are the centers of pixels, whose integer part survives rounding.
    """
    lines = []
    for index, area in shapes:
        ring = [*area.parts[0]] * (3 if len(area.parts[0]) < 3 else 1)  # a single pixel, too, is a polygon
        lines.append(f"{index} {' '.join(f'{(x + 0.5) / size[1]:.6f} {(y + 0.5) / size[0]:.6f}' for x, y in ring)}\n")
    return "".join(lines)
