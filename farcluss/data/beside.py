"""Data sets whose masks have the names of the images, in folders of their own; layouts are made of it."""

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from farcluss.data.accounting import Passed, unowned
from farcluss.data.base import IGNORE, Item
from farcluss.data.files import SUFFIXES, FileReader
from farcluss.data.filesets import FileDataset, find_images
from farcluss.data.masks import Sources, as_list, build_mask_map, choose_palette
from farcluss.data.searching import search
from farcluss.errors import DataError
from farcluss.recipes.model import Data, Defaults


def beside(data: Data, own: Sources, ignored: list[int], splits: dict[str, tuple[str, str]], hint: str) -> FileDataset:
    """A data set whose masks have the names of the images, in other folders.

    Args:
        data: section of the recipe.
        own: the layout's own classes.
        ignored: values of its masks that are of no class, besides 255; for a recipe without `classes`.
        splits: folders of images and of masks, below the root.
        hint: what to do where they are missing.

    Raises:
        DataError: the folder of the training images is missing.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / splits["train"][0]).is_dir():
        raise DataError(f"data.root = {data.root} has no folder {splits['train'][0]}.\n{hint}")
    if ignored and data.classes is None:
        data = data.model_copy(update={"ignore_index": [*ignored, IGNORE, *as_list(data.ignore_index)]})
    mask_map = build_mask_map(data, own)
    folders = {root / images: root / masks for images, masks in splits.values()}
    return FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channel_count, mask_map),
        {split: partial(items_below, images) for split, (images, _) in splits.items()},
        partial(image_below, list(folders)),
        partial(mask_beside, folders),
        defaults=Defaults(mask_values=mask_map.values),
        passed=partial(passed_below, folders),
    )


def items_below(folder: str, dataset: FileDataset) -> list[Item]:
    """Items of a folder of images."""
    return [dataset.item(path) for path in find_images(dataset.root, folder)]


def image_below(folders: Sequence[Path], identifier: str) -> Path | None:
    """The image of an identifier such as `ADE_train_00000001`."""
    name = f"{Path(identifier).stem}.jpg"
    return next((path for folder in folders if (path := folder / name).is_file()), None)


def mask_beside(folders: dict[Path, Path], image: Path) -> Path | None:
    """Where the mask of an image is; None for an image of another folder."""
    masks = folders.get(image.parent)
    return masks / f"{image.stem}.png" if masks else None


def passed_below(folders: dict[Path, Path], dataset: FileDataset, used: Collection[str]) -> list[Passed]:
    """Entries of the folders that are not used."""
    images = [search(folder, SUFFIXES) for folder in folders if folder.is_dir()]
    masks = [search(folder, [".png"]) for folder in dict.fromkeys(folders.values()) if folder.is_dir()]
    names = {path.stem: path.name for found in images for path in found.files}
    lost = [path for found in masks for path in found.files if path.stem not in names]
    return [*(entry for found in (*images, *masks) for entry in found.passed), *unowned(lost, names.values())]
