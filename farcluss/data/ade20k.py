"""ADE20K (scene parsing, 150 classes) and COCO (80 things, with or without background)."""

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from farcluss.data.accounting import Passed, unowned
from farcluss.data.base import Item
from farcluss.data.files import SUFFIXES, FileReader
from farcluss.data.filesets import FileDataset, find_images
from farcluss.data.masks import Sources, as_list, build_mask_map, choose_palette
from farcluss.data.searching import search
from farcluss.errors import DataError
from farcluss.recipes.model import Data, Defaults

ADE20K_CLASSES = [
    name.strip()
    for name in """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""".split(",")
]
COCO_CLASSES = [
    name.strip()
    for name in """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
""".split(",")
]


def ade20k(data: Data, *, labels: Literal["original", "shifted"] = "original") -> FileDataset:
    """ADE20K: `data.root` is the folder ADEChallengeData2016, with `images` and `annotations`.

    Args:
        labels: what masks hold. original, as in the download: 0 is no class and is ignored, class i is i + 1; shifted,
            as UniMatch V2 publishes them: class i is i, 255 is ignored.
    """
    first = 1 if labels == "original" else 0
    own: Sources = {name: [first + index] for index, name in enumerate(ADE20K_CLASSES)}
    if first and data.classes is None:
        data = data.model_copy(update={"ignore_index": [0, 255, *as_list(data.ignore_index)]})
    splits = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    return beside(data, own, splits, "Set it to the folder ADEChallengeData2016.")


def coco(data: Data, *, background: bool = True) -> FileDataset:
    """COCO 2017, things alone: `data.root` is the folder with `train2017`, `val2017` and `masks`.

    `masks` has an index mask of each image: 0 is background, k the k-th of the 80 things in the order of their ids.

    Args:
        background: true: background is class 0 of 81; false: it is ignored, and 80 classes are left.
    """
    own: Sources = {"background": [0]} if background else {}
    own |= {name: [1 + index] for index, name in enumerate(COCO_CLASSES)}
    if not background and data.classes is None:
        data = data.model_copy(update={"ignore_index": [0, 255, *as_list(data.ignore_index)]})
    splits = {"train": ("train2017", "masks"), "val": ("val2017", "masks")}
    return beside(data, own, splits, "Set it to the folder with train2017, val2017 and masks.")


def beside(data: Data, own: Sources, splits: dict[str, tuple[str, str]], hint: str) -> FileDataset:
    """A data set whose masks have the names of the images, in other folders.

    Args:
        data: section of the recipe.
        own: the layout's own classes.
        splits: folders of images and of masks, below the root.
        hint: what to do where they are missing.

    Raises:
        DataError: the folder of the training images is missing.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / splits["train"][0]).is_dir():
        raise DataError(f"data.root = {data.root} has no folder {splits['train'][0]}.\n{hint}")
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
