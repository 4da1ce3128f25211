"""The layouts of public data sets, each an entry point of the group `farcluss.dataset`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from farcluss.data.accounting import Passed, unowned
from farcluss.data.base import Data
from farcluss.data.layouts import root_of
from farcluss.data.masks import Sources
from farcluss.data.searching import only_in, search, whole
from farcluss.errors import DataError, RecipeError
from farcluss.recipes.texts import read_text
from farcluss_remote_sensing.files import SUFFIXES
from farcluss_remote_sensing.folders import LABELS, files_in, short_names, single_files
from farcluss_remote_sensing.options import with_scene_options
from farcluss_remote_sensing.scenes import Index, Scene

LOVEDA = {
    "background": "#ffffff",
    "building": "#ff0000",
    "road": "#ffff00",
    "water": "#0000ff",
    "barren": "#9f81b7",
    "forest": "#00ff00",
    "agriculture": "#ffc380",
}
ISPRS = {
    "impervious surface": "#ffffff",
    "building": "#0000ff",
    "low vegetation": "#00ffff",
    "tree": "#00ff00",
    "car": "#ffff00",
    "clutter": "#ff0000",
}


@with_scene_options
def loveda(
    data: Data,
    *,
    areas: list[Literal["Urban", "Rural"]] = ["Urban", "Rural"],  # noqa: B006
    unlabeled_test: bool = False,
) -> Index:
    """LoveDA: `{Train,Val,Test}/{Urban,Rural}/images_png`, with labels of the same names in `masks_png`.

    Train and Val are the splits train and val. The labels of Test are not published; scenes that have one are the
    split test. Label 0 is ignored.

    Args:
        areas: areas to use, `Urban`, `Rural` or both.
        unlabeled_test: add scenes of Test without a label to the unlabeled training scenes.
    """
    root = root_of(data)
    found: dict[str, list[tuple[str, Scene]]] = {}
    problems: list[str] = []
    for folder in ("Train", "Val", "Test"):
        for area in areas:
            place = root / folder / area
            if folder == "Train" or (place / "images_png").is_dir():
                scenes, more = _mirrored(place, "images_png", "masks_png", f"{folder}/{area}")
                found.setdefault(folder.lower(), []).extend(scenes)
                problems += more
    bare = [pair for pair in found.get("test", []) if not pair[1].label]
    if unlabeled_test:
        found["train"] += bare
    splits, more = _scored(found)
    values: Sources = {name: [value] for value, name in enumerate(LOVEDA, 1)}
    places = [root / folder / area for folder in ("Train", "Val", "Test") for area in areas]
    passed = [entry for place in places for entry in _not_used([place / "images_png"], [place / "masks_png"])]
    return Index(short_names(splits), problems + more, values, [0], list(LOVEDA.values()), passed=passed)


def _mirrored(place: Path, images: str, labels: str, prefix: str) -> tuple[list[tuple[str, Scene]], list[str]]:
    """Scenes of a folder with labels of the same names, their ids below `prefix`; and problems."""
    files, problems = single_files(files_in(place, images))
    masks = _by_stem(place / labels)
    scenes = [Scene(f"{prefix}/{base.name}", tuple(map(str, own)), masks.get(base.name)) for base, own in files.items()]
    return [(Path(scene.id).name, scene) for scene in scenes], problems


def _by_stem(folder: Path) -> dict[str, str]:
    """Files of a folder by their names without extension; empty if there is no folder.

    Raises:
        DataError: two have one name, or the folder cannot be searched.
    """
    found: dict[str, str] = {}
    for path in only_in(folder, whole(search(folder, SUFFIXES))).files:
        if (other := found.setdefault(path.stem, str(path))) != str(path):
            raise DataError(f"{other} and {path} are both named {path.stem}. Remove one of them.")
    return found


def _not_used(images: Iterable[Path], labels: Iterable[Path]) -> list[Passed]:
    """Entries of folders of images that are not read, and of folders of labels that belong to no image."""
    own = [search(folder, SUFFIXES) for folder in images if folder.is_dir()]
    masks = [search(folder, LABELS) for folder in labels if folder.is_dir()]
    names = {_common(path): path.name for found in own for path in found.files}
    lost = [path for found in masks for path in found.files if _common(path) not in names]
    return [*(entry for found in (*own, *masks) for entry in found.passed), *unowned(lost, names.values())]


def _scored(found: Mapping[str, list[tuple[str, Scene]]]) -> tuple[dict[str, list[tuple[str, Scene]]], list[str]]:
    """Splits without the held-out scenes that have no label; those of val become problems."""
    kept = {split: [pair for pair in pairs if split == "train" or pair[1].label] for split, pairs in found.items()}
    bare = [scene for _, scene in found.get("val", []) if not scene.label]
    return {split: pairs for split, pairs in kept.items() if pairs}, [f"{s.images[0]} has no label." for s in bare]


class Benchmark(NamedTuple):
    """An ISPRS data set.

    Attributes:
        name: of the city.
        area: pattern whose first group is the area in a file name without extension.
        train: official training areas.
        val: official test areas, whose labels were published later.
        example: file names, for messages.
    """

    name: str
    area: re.Pattern[str]
    train: tuple[str, ...]
    val: tuple[str, ...]
    example: str


POTSDAM = Benchmark(
    "Potsdam",
    re.compile(r"(?:^|potsdam_)(\d_\d+)(?=_|$)"),
    ("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12",
     "6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11", "7_12"),
    ("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
    "top_potsdam_2_10_RGB.tif or 2_10_0_0_512_512.png",
)  # fmt: skip
VAIHINGEN = Benchmark(
    "Vaihingen",
    re.compile(r"area(\d+)(?=_|$)"),
    tuple(map(str, (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37))),
    tuple(map(str, (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38))),
    "top_mosaic_09cm_area1.tif or area1_0_0_512_512.png",
)
KIND = re.compile(r"(_(RGB|IRRG|RGBIR|label|noBoundary))+$")
"""Suffixes in which the names of an image and its label differ."""


@with_scene_options
def potsdam(
    data: Data,
    *,
    imagery: Literal["RGB", "IRRG", "RGBIR"] = "RGB",
    images: str | None = None,
    labels: str = "5_Labels_all",
    train_areas: list[str] | None = None,
    val_areas: list[str] | None = None,
) -> Index:
    """ISPRS Potsdam: `2_Ortho_RGB/top_potsdam_2_10_RGB.tif`, `5_Labels_all/top_potsdam_2_10_label.tif`.

    Tiles cut from the areas are found too, where their names begin with the area: `2_10_0_0_512_512.png`. All tiles of
    an area stay in one set. An image without a label is unlabeled. Black, the edges of eroded labels, is ignored.

    Args:
        imagery: official images to use: red, green, blue; infrared, red, green; or all four bands.
        images: folder of the images; unset: the official one, such as `2_Ortho_RGB`.
        labels: folder of the labels; `5_Labels_all_noBoundary` for eroded ones.
        train_areas: such as `["2_10", "2_11"]`; unset: the 24 official ones.
        val_areas: areas to validate on; unset: the 14 whose labels were published last, the official test set.
    """
    folder = images or {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}[imagery]
    return _areas_index(data, POTSDAM, folder, labels, train_areas, val_areas)


@with_scene_options
def vaihingen(
    data: Data,
    *,
    images: str = "top",
    labels: str = "gts_for_participants",
    train_areas: list[int] | None = None,
    val_areas: list[int] | None = None,
) -> Index:
    """ISPRS Vaihingen: `top/top_mosaic_09cm_area1.tif`, `gts_for_participants/top_mosaic_09cm_area1.tif`.

    Tiles cut from the areas are found too, where the area is in their names: `area1_0_0_512_512.png`. All tiles of an
    area stay in one set. An image without a label is unlabeled. Black, the edges of eroded labels, is ignored.

    Args:
        images: folder of the images: infrared, red, green.
        labels: folder of the labels; `gts_eroded_for_participants` for eroded ones.
        train_areas: such as `[1, 3, 5]`; unset: the 16 official ones.
        val_areas: areas to validate on; unset: the other 17, the official test set.
    """
    own = (None if areas is None else list(map(str, areas)) for areas in (train_areas, val_areas))
    return _areas_index(data, VAIHINGEN, images, labels, *own)


def _areas_index(
    data: Data, benchmark: Benchmark, images: str, labels: str, train: list[str] | None, val: list[str] | None
) -> Index:
    """The index of an ISPRS data set, by area."""
    root = root_of(data)
    train = list(benchmark.train) if train is None else train
    val = list(benchmark.val) if val is None else val
    homes = _homes(benchmark, train, val)
    if not (root / labels).is_dir():
        raise DataError(f"data.layout.labels = {labels!r} is not a folder in {root}.")
    masks = _labels(root / labels)
    splits: dict[str, list[tuple[str, Scene]]] = {"train": [], "val": []}
    problems: list[str] = []
    first: dict[str, Path] = {}
    for path in files_in(root, images):
        name, area = _common(path), benchmark.area.search(path.stem)
        if area is None:
            problems.append(f"The name of {path} contains no area, as {benchmark.example} does. Rename or remove it.")
        elif (other := first.setdefault(name, path)) != path:
            problems.append(f"{other} and {path} are both named {name}. Remove one of them.")
        elif split := homes.get(area[1]):
            splits[split].append((name, Scene(name, (str(path),), masks.get(name), area[1])))
    found = {split: [s for _, s in pairs if split == "train" or s.label] for split, pairs in splits.items()}
    if not found["train"]:
        raise DataError(
            f"{root / images} has no image of the training areas. Image names look like {benchmark.example}.\n"
            "Check data.root, data.layout.images and data.layout.train_areas."
        )
    classes: Sources = {name: [color] for name, color in ISPRS.items()}
    kept = {split: scenes for split, scenes in found.items() if scenes}
    passed = _not_used([root / images], [root / labels])
    return Index(kept, problems, classes, ["#000000"], list(ISPRS.values()), passed=passed)


def _labels(folder: Path) -> dict[str, str]:
    """Labels by the common part of their names and those of images. Raises DataError: two are of the same image."""
    found: dict[str, str] = {}
    for path in search(folder, LABELS).files:
        if (other := found.setdefault(_common(path), str(path))) != str(path):
            raise DataError(f"{other} and {path} are labels of the same image. Keep them in separate folders.")
    return found


def _common(path: Path) -> str:
    """The common part of the names of an image and its label."""
    return KIND.sub("", path.stem)


def _homes(benchmark: Benchmark, train: list[str], val: list[str]) -> dict[str, str]:
    """The split of each area. Raises RecipeError: an unknown area, or one in both lists."""
    for key, areas in (("train_areas", train), ("val_areas", val)):
        if unknown := [area for area in areas if area not in (*benchmark.train, *benchmark.val)]:
            raise RecipeError(f"data.layout.{key}: {benchmark.name} has no area {unknown[0]!r}.")
    if both := [area for area in train if area in val]:
        raise RecipeError(
            f"Area {both[0]} is in both data.layout.train_areas and data.layout.val_areas. Remove it from one."
        )
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}


@with_scene_options
def change(data: Data, *, before: str = "A", after: str = "B", labels: str = "label") -> Index:
    """Pairs of images of one place for change detection, as in LEVIR-CD and WHU-CD: `A/ B/ label/`.

    The folders are in `data.root`, with or without the lists `list/train.txt` (or `lists/`), `val.txt` and `test.txt`;
    or in its subfolders `train`, `val` and `test`. Files of a pair have the same name. The bands of both
    dates are stacked, the earlier ones first: set data.channels to twice those of an image. In labels 0 is unchanged,
    255 or 1 changed. A pair without a label is unlabeled.

    Args:
        before: folder of the earlier images.
        after: folder of the later images.
        labels: folder of the labels.
    """
    root = root_of(data)
    folders = (before, after, labels)
    places = {"train": root} if (root / before).is_dir() else {s: root / s for s in ("train", "val", "test")}
    places = {split: place for split, place in places.items() if split == "train" or (place / before).is_dir()}
    found: dict[str, list[tuple[str, Scene]]] = {}
    problems: list[str] = []
    for split, place in places.items():
        found[split], more = _pairs(place, folders, "" if place == root else f"{split}/")
        problems += more
    if root in places.values():
        found, more = _by_lists(root, dict(found["train"]))
        problems += more
    found, more = _scored(found)
    classes: Sources = {"unchanged": [0], "changed": [255, 1]}
    passed = [
        entry for place in places.values() for entry in _not_used([place / before, place / after], [place / labels])
    ]
    dates = {"before": before, "after": after}
    return Index(short_names(found), problems + more, classes, options=dates, passed=passed)


def _pairs(place: Path, folders: tuple[str, str, str], prefix: str) -> tuple[list[tuple[str, Scene]], list[str]]:
    """Scenes of two dates each, by name; and problems."""
    before, after, labels = (_by_stem(place / folder) for folder in folders)
    if not before:
        raise DataError(
            f"There are no images in {place / folders[0]}. Check data.root and data.layout.before; the layout has\n"
            "A/, B/ and label/ in data.root, or in its folders train, val and test."
        )
    problems = [
        f"{path} has no image of the same name in {place / folders[1]}." for n, path in before.items() if n not in after
    ]
    problems += [
        f"{path} has no image of the same name in {place / folders[0]}." for n, path in after.items() if n not in before
    ]
    both = [name for name in before if name in after]
    return [(n, Scene(f"{prefix}{n}", (before[n], after[n]), labels.get(n))) for n in both], problems


def _by_lists(root: Path, scenes: Mapping[str, Scene]) -> tuple[dict[str, list[tuple[str, Scene]]], list[str]]:
    """The splits of scenes by the data set's own lists (all are training scenes if there are none); and problems."""
    folder = next((root / name for name in ("list", "lists") if (root / name / "train.txt").is_file()), None)
    if folder is None:
        return {"train": list(scenes.items())}, []
    splits: dict[str, list[tuple[str, Scene]]] = {}
    problems, homes = [], dict[str, str]()
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        for number, line in enumerate(_lines(path), 1):
            name = line if line in scenes else Path(line).stem
            if name in homes:
                problems.append(f"{path}, line {number}: {name} is already in {homes[name]}.txt.")
            elif name in scenes:
                homes[name] = split
                splits.setdefault(split, []).append((name, scenes[name]))
            elif line:
                problems.append(f"{path}, line {number}: {line!r} is not an image in {root}.")
    return splits, problems


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, DataError).splitlines()] if path.is_file() else []
