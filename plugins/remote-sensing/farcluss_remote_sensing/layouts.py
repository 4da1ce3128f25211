"""The layouts for your own scenes, each an entry point of the group `farcluss.dataset`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from farcluss.data.base import Data
from farcluss.data.layouts import root_of
from farcluss.data.pairing import MaskFinder, fixed_part
from farcluss.data.searching import Found
from farcluss.errors import DataError, not_a_file
from farcluss_remote_sensing.addresses import is_there, locate, scene_name
from farcluss_remote_sensing.folders import (
    band_files_of,
    label_finder,
    look_for,
    not_used,
    scenes_of,
    short_names,
    single_files,
)
from farcluss_remote_sensing.options import with_scene_options
from farcluss_remote_sensing.scenes import Index, Scene, label_file
from farcluss_remote_sensing.tables import images_of, read_scenes

COLUMNS = ("image", "label", "group", "split")
SPLITS = {"": "train", "train": "train", "val": "val", "test": "test"}
"""Ordered: a group in several splits stays in the last of them."""


@with_scene_options
def rasters(
    data: Data,
    *,
    images: str = "images",
    labels: str = "labels",
    val_images: str | None = None,
    val_labels: str | None = None,
    test_images: str | None = None,
    test_labels: str | None = None,
    image_suffix: str = "",
    band_files: list[str] = [],  # noqa: B006
    group: Literal["scene", "folder"] = "scene",
) -> Index:
    """Folders of scenes, and of labels with the same names.

    Paths are relative to `data.root`. Each images option is a folder (with subfolders) or a glob of files or folders;
    each labels option is a folder that mirrors the images, with any extension, or a pattern such as
    `"{up}/labels/{stem}"`, with or without an extension. Labels are files of pixels or of polygons; a scene without
    one is unlabeled. A scene is named after its file, without extension; lists may also give its path.

    Args:
        images: training scenes, labeled and unlabeled.
        labels: their labels.
        val_images: scenes to validate on.
        val_labels: their labels; unset: looked up as for training.
        test_images: test scenes, for `farcluss eval --split test`.
        test_labels: their labels; unset: looked up as for training.
        image_suffix: ending of image names that label names do not have, such as `_sat`.
        band_files: for one file per band: name endings without extension, in the order of the bands, such as
            `["_B02", "_B03", "_B04"]`. Files with the same name before the ending are one scene.
        group: what is never split between training and validation: a scene, or the scenes of a folder, such as the
            tiles of one image.
    """
    root = root_of(data)
    places = {"test": (test_images, test_labels), "val": (val_images, val_labels), "train": (images, labels)}
    splits: dict[str, list[tuple[str, Scene]]] = {}
    taken: set[Path] = set()  # by splits whose folders lie below those of training
    problems: list[str] = []
    searched: list[Found] = []
    finders: list[MaskFinder] = []
    if not images.strip() or not labels.strip():
        raise DataError('data.layout.images and data.layout.labels must not be empty; "." is data.root itself.')
    for split, (pattern, own) in places.items():
        if not pattern:
            continue
        searched.append(look_for(root, pattern))
        files = [path for path in searched[-1].files if path not in taken]
        taken.update(files)
        base = fixed_part(root, pattern)
        inside = not own and base.is_relative_to(fixed_part(root, images))
        finders.append(label_finder(root, images if inside else pattern, own or labels, image_suffix))
        found, more = band_files_of(files, band_files) if band_files else single_files(files)
        if not found and not more:
            raise DataError(f"No file in {root / pattern} ends in {band_files[0]}. Check data.layout.band_files.")
        splits[split], twice = scenes_of(root, base, found, finders[-1], by_folder=group == "folder")
        problems += [*more, *twice]
    passed = not_used(searched, finders, [scene for pairs in splits.values() for _, scene in pairs])
    names = short_names(dict(reversed(splits.items())))
    return Index(names, problems, options={"band_files": band_files}, passed=passed)


@with_scene_options
def scenes(data: Data, *, file: str = "scenes.csv") -> Index:
    """A table of scenes: CSV with the columns image, label, group, split; all but image may be missing.

    Paths are relative to `data.root`; rasters may also be addresses, `https://...`, `s3://...` or `/vsi...`. An image
    may be several files, `A.tif;B.tif`, whose bands are stacked; a label is a file of pixels, or of polygons as `FILE`
    or `FILE:LAYER`. A scene without a label is unlabeled; `group` names what
    must stay in one set, such as a place; `split` is train (or empty), val or test. A scene is named after its (first)
    image, by its path without extension.

    Args:
        file: the table, below `data.root`.
    """
    root = root_of(data)
    table = root / file
    rows, columns = read_scenes(table)
    where = f"{table}, line"
    unknown = [column for column in columns if column not in COLUMNS]
    problems = [f"{where} 1: unknown column {c!r}; known are {', '.join(COLUMNS)}." for c in unknown]
    splits: dict[str, list[Scene]] = {"train": []}
    lines: dict[str, int] = {}
    homes = _homes(rows)
    for line, row in rows:
        paths = images_of(row["image"], root)
        wrong = _row_problems(root, row, paths, homes)
        name = scene_name(paths[0], root) if paths else ""
        if paths and (first := lines.setdefault(name, line)) != line:
            wrong.append(f"scene {name} is already in line {first}.")
        problems += [f"{where} {line}: {text}" for text in wrong]
        if not wrong:
            label = locate(root, row["label"]) if row.get("label") else None
            scene = Scene(name, paths, label, row.get("group", ""))
            splits.setdefault(SPLITS[row.get("split", "")], []).append(scene)
    return Index(splits, problems)


def _homes(rows: list[tuple[int, dict[str, str]]]) -> dict[str, str]:
    """The split of each group: the last that one of its scenes is in."""
    order = list(SPLITS)
    homes: dict[str, str] = {}
    for _, row in rows:
        group, split = row.get("group", ""), row.get("split", "")
        if group and split in SPLITS:
            homes[group] = SPLITS[max(homes.get(group, ""), split, key=order.index)]
    return homes


def _row_problems(root: Path, row: Mapping[str, str], images: tuple[str, ...], homes: Mapping[str, str]) -> list[str]:
    """Problems of a single row, and of the split of its group."""
    split, label, group = (row.get(column, "") for column in ("split", "label", "group"))
    wrong = [] if images else ["the column image is empty."]
    paths = [*images, *([locate(root, label_file(label))] if label else [])]
    absent = [path for path in paths if not is_there(path)]
    wrong += [f"{path} is {other}." if (other := not_a_file(path)) else f"{path} does not exist." for path in absent]
    if row.get(""):
        wrong.append(f"there are more values than columns: {row['']}.")
    if split not in SPLITS:
        return [*wrong, f"unknown split {split!r}; write train, val or test."]
    if split in ("val", "test") and not label:
        wrong.append(f"a scene of {split} needs a label.")
    if group and homes[group] != SPLITS[split]:
        own = SPLITS[split]
        wrong.append(f"group {group} is in both {own} and {homes[group]}: scores would be computed on training data.")
    return wrong
