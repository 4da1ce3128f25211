"""PASCAL VOC 2012."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from farcluss.data.base import Item
from farcluss.data.files import FileReader
from farcluss.data.filesets import FileDataset
from farcluss.data.masks import build_mask_map, choose_palette
from farcluss.errors import DataError
from farcluss.recipes.model import Data, Defaults

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def voc(data: Data, *, variant: Literal["classic", "blended"] = "classic") -> FileDataset:
    """PASCAL VOC 2012: `data.root` is the folder with `JPEGImages`, `SegmentationClass` and `ImageSets`.

    Training images are those of `ImageSets/Segmentation/train.txt`, plus those with a mask in `SegmentationClassAug`
    (the SBD annotations) or a line in `ImageSets/Segmentation/train_aug.txt`; validation images never among them.

    Args:
        variant: `classic` takes only the 1464 finely annotated masks as labels, the SBD images are unlabeled; `blended`
            takes the SBD masks as labels too.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / "JPEGImages").is_dir():
        raise DataError(
            f"data.root = {data.root} has no folder JPEGImages.\nSet it to the folder VOC2012 of the VOCdevkit."
        )
    masks = (root / "SegmentationClass", root / "SegmentationClassAug")
    mask_map = build_mask_map(data, {name: [index] for index, name in enumerate(VOC_CLASSES)})
    return FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channel_count, mask_map),
        {"train": partial(voc_train, variant == "blended"), "val": voc_val},
        partial(voc_image, root),
        partial(voc_mask, masks if variant == "classic" else masks[::-1]),
        defaults=Defaults(mask_values=mask_map.values),
    )


def voc_image(root: Path, identifier: str) -> Path:
    """Where the image of an identifier is."""
    return root / "JPEGImages" / f"{Path(identifier).stem}.jpg"


def voc_mask(folders: Sequence[Path], image: Path) -> Path | None:
    """The mask of an image in the first of `folders` that has one."""
    return next((path for folder in folders if (path := folder / f"{image.stem}.png").is_file()), None)


def voc_names(root: Path, split: str) -> list[str]:
    """Identifiers of a list of `ImageSets/Segmentation`. Raises DataError when it is missing."""
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path} is missing.\nGive list files in data.labeled, data.unlabeled and data.val.")
    return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]


def voc_val(dataset: FileDataset) -> list[Item]:
    """Validation items."""
    return [dataset.item(voc_image(dataset.root, name)) for name in voc_names(dataset.root, "val")]


def voc_train(blended: bool, dataset: FileDataset) -> list[Item]:
    """Training items: the finely annotated ones, then those of SBD, whose masks count only when `blended`."""
    root = dataset.root
    listed = voc_names(root, "train")
    if (root / "ImageSets" / "Segmentation" / "train_aug.txt").is_file():
        extra = voc_names(root, "train_aug")
    else:
        extra = [path.stem for path in (root / "SegmentationClassAug").glob("*.png")]
    others = sorted(set(extra) - set(listed) - set(voc_names(root, "val")))
    more = [dataset.item(voc_image(root, name)) for name in others]
    return [dataset.item(voc_image(root, name)) for name in listed] + [
        item if blended else replace(item, mask=None) for item in more
    ]
