"""Exports that are masks already: only their values or colors have to be found in the file beside them."""

import csv
import io
from pathlib import Path

from farcluss.annotations.reading import SPLITS, exports
from farcluss.data.filesets import FileDataset
from farcluss.data.folder import folder
from farcluss.data.layouts import root_of
from farcluss.data.masks import Sources
from farcluss.errors import DataError
from farcluss.recipes.model import Data
from farcluss.recipes.texts import read_text

LABELMAP, CLASSES = "labelmap.txt", "_classes.csv"


def is_cvat_masks(path: Path) -> bool:
    """Whether a file is the `labelmap.txt` of CVAT's masks."""
    return path.name == LABELMAP and (path.parent / "SegmentationClass").is_dir()


def cvat_masks(data: Data, *, images: str = "JPEGImages") -> FileDataset:
    """CVAT's export "Segmentation mask": colors by `labelmap.txt`, masks in `SegmentationClass`.

    Lists in `ImageSets/Segmentation` name the images of each subset: `val.txt` and `test.txt` hold images out.

    Args:
        images: folder of the images, which an export holds if asked for, or a list.
    """
    root = root_of(data)
    base = exports(root, None, [".txt"], is_cvat_masks)[0].parent
    own = data if data.classes is not None else data.model_copy(update={"classes": labelmap(base / LABELMAP)})
    place = "" if base == root else f"{base.relative_to(root).as_posix()}/"
    lists = {key: f"{place}ImageSets/Segmentation/{key}.txt" for key in ("val", "test")}
    held = {f"{key}_images": name for key, name in lists.items() if (root / name).is_file()}
    if not (root / f"{place}{images}").exists():
        raise DataError(f"There is no {root / place / images}: export with images, or set data.layout.images.")
    return folder(own, images=f"{place}{images}", masks=f"{place}SegmentationClass/{{stem}}.png", **held)


def labelmap(path: Path) -> Sources:
    """Colors by class of a `labelmap.txt`: lines `name:r,g,b:parts:actions`. Raises DataError."""
    found: Sources = {}
    for number, line in enumerate(read_text(path, DataError).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, color, *_ = line.split(":")
            red, green, blue = (int(each) for each in color.split(","))
        except ValueError:
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not `name:r,g,b::`. Export it again.") from None
        found[name] = [f"#{red:02x}{green:02x}{blue:02x}"]
    return found


def is_roboflow(path: Path) -> bool:
    """Whether a file is the `_classes.csv` of Roboflow's masks."""
    return path.name == CLASSES


def roboflow_masks(data: Data) -> FileDataset:
    """Roboflow's export "PNG mask": `train`, `valid` and `test`, each with images, their masks and `_classes.csv`."""
    root = root_of(data)
    tables = {SPLITS.get(path.parent.name, "train"): path for path in exports(root, None, [".csv"], is_roboflow)}
    if "train" not in tables:
        raise DataError(f"{root} has no train/{CLASSES}. Set data.root to the folder with train, valid and test.")
    own = data if data.classes is not None else data.model_copy(update={"classes": values_of(tables["train"])})
    places = {split: path.parent.relative_to(root).as_posix() for split, path in tables.items()}
    held = {f"{split}_images": places[split] for split in ("val", "test") if split in places}
    held |= {f"{split}_masks": f"{places[split]}/{{stem}}_mask.png" for split in ("val", "test") if split in places}
    return folder(own, images=places["train"], masks=f"{places['train']}/{{stem}}_mask.png", **held)


def values_of(path: Path) -> Sources:
    """Mask values by class of a `_classes.csv`: columns `Pixel Value` and `Class`. Raises DataError."""
    found: Sources = {}
    rows = list(csv.reader(io.StringIO(read_text(path, DataError)), skipinitialspace=True))
    for number, row in enumerate(rows[1:], 2):
        try:
            value, name = int(row[0]), row[1].strip()
        except (ValueError, IndexError):
            raise DataError(f"{path}, line {number}: {','.join(row)[:60]!r} is not `value, class`.") from None
        found[name] = [value]
    return found
