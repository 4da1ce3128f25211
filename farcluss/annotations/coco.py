"""COCO JSON, which nearly every tool exports: polygons, run lengths, category ids with gaps."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farcluss.annotations.reading import exports, parse, peek, split_of
from farcluss.annotations.shapes import Drawing, Export, Shape
from farcluss.errors import DataError, PluginError

KIND = "a COCO file of instances"
TABLES = ('"images"', '"annotations"', '"categories"')


class CocoArea(NamedTuple):
    """A `segmentation` of COCO, filled as pycocotools does, so that masks are those that others score on."""

    segmentation: Any

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Where it is. Raises ValueError for run lengths of another size."""
        tools, found = coder(), self.segmentation
        if isinstance(found, list):
            # Four numbers would be taken as a box; they are a line, which has no area.
            runs = [ring for ring in found if len(ring) > 4]
            if not runs:
                return np.zeros(size, bool)
            return np.asarray(tools.decode(tools.merge(tools.frPyObjects(runs, *size))), bool)
        if tuple(found["size"]) != size:
            raise ValueError(f"run lengths for {found['size']} in an image of {list(size)}")
        counts = found["counts"]
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1]:
                raise ValueError(f"run lengths of {sum(counts)} pixels in an image of {size[0] * size[1]}")
            found = tools.frPyObjects(found, *size)
        return np.asarray(tools.decode(found), bool)


def coder() -> Any:
    """Pycocotools' functions for masks. Raises PluginError where it is missing."""
    try:
        from pycocotools import mask
    except ImportError:
        raise PluginError("COCO files need pycocotools: pip install 'farcluss[annotations]'") from None
    return mask


def is_coco(path: Path) -> bool:
    """Whether a JSON file looks like one."""
    # Any table may come first, and be long; of a file that begins with none, such as labelme's, no more is read.
    return path.suffix.lower() == ".json" and any(peek(path, [word]) for word in TABLES) and peek(path, TABLES, -1)


def read_coco(root: Path, file: str | None) -> Export:
    """The export in a file, or in all such files below the root, each with its split. Raises DataError."""
    labels: dict[int, str] = {}
    drawings: dict[str, list[Drawing]] = {"train": [], "val": [], "test": []}
    for path in exports(root, file, [".json"], is_coco):
        own, found = parse(path, KIND, partial(_read, path))
        for number, name in own.items():
            if labels.setdefault(number, name) != name:
                raise DataError(f"{path} calls category {number} {name!r}, another file {labels[number]!r}.\n"
                                "Read one of them alone: data.layout.file.")  # fmt: skip
        drawings[split_of(path, root)] += found
    return Export.of(drawings, (labels[number] for number in sorted(labels)))


def _read(path: Path, table: dict[str, Any]) -> tuple[dict[int, str], list[Drawing]]:
    labels = {int(each["id"]): str(each["name"]) for each in table["categories"]}
    shapes: dict[Any, list[Shape]] = {each["id"]: [] for each in table["images"]}
    sizes = {each["id"]: (int(each["height"]), int(each["width"])) for each in table["images"]}
    for each in table["annotations"]:
        if not (segmentation := each.get("segmentation")):
            raise ValueError(f"annotation {each.get('id')} has no segmentation, only a box")
        area, size = CocoArea(segmentation), sizes[each["image_id"]]
        if isinstance(segmentation, dict):
            area.pixels(size)  # damaged run lengths shall be found here, by name, and not in a worker
        shapes[each["image_id"]].append(Shape(labels[each["category_id"]], area))
    drawings = [
        Drawing(str(each["file_name"]), tuple(shapes[each["id"]]), sizes[each["id"]], str(path))
        for each in table["images"]
    ]
    return labels, drawings
