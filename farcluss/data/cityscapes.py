"""Cityscapes."""

import os
from functools import partial
from pathlib import Path
from typing import Literal

from farcluss.data.base import Item
from farcluss.data.files import FileReader
from farcluss.data.filesets import FileDataset, find_images
from farcluss.data.masks import Sources, as_list, build_mask_map, choose_palette
from farcluss.errors import DataError
from farcluss.recipes.model import Data, Defaults

# Name, labelId and color of the 19 classes that are scored, in the order of their labelTrainIds.
CITYSCAPES_CLASSES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CITYSCAPES_IDS = range(-1, 34)


def cityscapes(data: Data, *, labels: Literal["auto", "labelTrainIds", "labelIds"] = "auto") -> FileDataset:
    """Cityscapes: `data.root` is the folder with `leftImg8bit` and `gtFine`.

    Args:
        labels: which mask files to read. labelIds, which the download contains, are mapped to the 19 scored classes;
            labelTrainIds must be generated. `auto` takes labelTrainIds where training images have them.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / "leftImg8bit").is_dir():
        raise DataError(
            f"data.root = {data.root} has no folder leftImg8bit.\nSet it to the folder with leftImg8bit and gtFine."
        )
    if labels == "auto":
        generated = next((root / "gtFine" / "train").glob("*/*_labelTrainIds.png"), None)
        labels = "labelTrainIds" if generated else "labelIds"
    own = labels == "labelIds" and data.classes is None
    codes = [code for code, _ in CITYSCAPES_CLASSES.values()] if own else range(len(CITYSCAPES_CLASSES))
    scored: Sources = {name: [code] for name, code in zip(CITYSCAPES_CLASSES, codes, strict=True)}
    if own:
        others = [code for code in CITYSCAPES_IDS if code not in codes]
        data = data.model_copy(update={"ignore_index": [*others, *as_list(data.ignore_index)]})
    mask_map = build_mask_map(data, scored)
    return FileDataset(
        mask_map.names,
        choose_palette(data, tuple(color for _, color in CITYSCAPES_CLASSES.values()), len(mask_map.names), mask_map),
        root,
        FileReader(data.channel_count, mask_map),
        {split: partial(cityscapes_items, split) for split in ("train", "val", "test")},
        partial(cityscapes_image, root),
        partial(cityscapes_mask, root, labels),
        defaults=Defaults(mask_values=mask_map.values),
    )


def cityscapes_items(split: str, dataset: FileDataset) -> list[Item]:
    """Items of a split."""
    return [dataset.item(path) for path in find_images(dataset.root, f"leftImg8bit/{split}")]


def cityscapes_image(root: Path, identifier: str) -> Path | None:
    """The image of an identifier such as `aachen_000000_000019`."""
    name = f"{Path(identifier).stem.removesuffix('_leftImg8bit')}_leftImg8bit.png"
    return next((root / "leftImg8bit").glob(f"*/*/{name}"), None)


def cityscapes_mask(root: Path, labels: str, image: Path) -> Path:
    """Where the mask of an image is."""
    split, city = image.parent.parent.name, image.parent.name
    return root / "gtFine" / split / city / f"{image.stem.removesuffix('_leftImg8bit')}_gtFine_{labels}.png"
