"""The layouts for your own data sets, each an entry point of the group `farcluss.dataset`."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from farcluss.data.accounting import Passed, Reason, unowned
from farcluss.data.base import Data
from farcluss.data.layouts import read_table, root_of
from farcluss.data.pairing import MaskFinder, Mirror, below
from farcluss.data.searching import readable, search_glob
from farcluss.errors import DataError, short, some
from farcluss.recipes.texts import read_text
from farcluss_medical.cases import Case, Index, by_stem, look_into, stem
from farcluss_medical.itk import is_series
from farcluss_medical.options import with_volume_options
from farcluss_medical.volumes import SUFFIXES, VOLUMES

Kind = TypeVar("Kind", dict[str, Any], list[Any])
COLUMNS = ("case", "image", "label", "group", "split")
SPLITS = {"": "train", "train": "train", "val": "val", "test": "test"}


@with_volume_options
def decathlon(data: Data, *, file: str = "dataset.json") -> Index:
    """Medical Segmentation Decathlon, or a MONAI datalist: a JSON file that lists images and labels.

    `training` has pairs, `unlabeled` (farcluss only) has images, `validation` and `testing` have pairs if any; an
    `image` may be a list with a file per channel, a `group` names the patient.

    Args:
        file: the JSON file, below `data.root`.
    """
    root = root_of(data)
    facts = read_json(root / file, dict)
    splits: dict[str, list[Case]] = {"train": []}
    problems: list[str] = []
    keys = {"training": "train", "unlabeled": "train", "validation": "val", "testing": "test", "test": "test"}
    for key, split in keys.items():
        cases: list[Case] = []
        entries = facts.get(key, [])
        if not isinstance(entries, list):
            raise DataError(f"{root / file}: {key} must be a list of cases, not {short(repr(entries))}.")
        for number, entry in enumerate(entries):
            case = _entry(root, entry)
            if case is None:
                shown = short(repr(entry))
                problems.append(
                    f"{root / file}: entry {number} of {key} has no image, or a name that is no text: {shown}."
                )
            else:
                cases.append(replace(case, label=None) if key == "unlabeled" else case)
        if key == "training":
            problems += [f"{root / file}: {case.id} of training has no label." for case in cases if not case.label]
            cases = [case for case in cases if case.label]
        elif split != "train":
            # Cases without a label cannot be scored; some data sets have test labels in a folder of their own.
            cases = [case for case in map(_with_test_label, cases) if case.label]
        if cases:
            splits.setdefault(split, []).extend(cases)
    classes = _numbered_names(facts.get("labels"), root / file)
    named = facts.get("modality")
    return Index(_short_names(splits), problems, classes, channels=[*named.values()] if isinstance(named, dict) else ())


def _entry(root: Path, entry: Any) -> Case | None:
    """A case of a datalist; None if it has no image."""
    table = entry if isinstance(entry, dict) else {"image": entry}
    images, label, group = table.get("image"), table.get("label"), table.get("group")
    images = images if isinstance(images, list) else [images]
    if not images or not all(isinstance(name, str) for name in (*images, label or "")) or not Path(images[0]).name:
        return None
    paths = tuple(str(root / image) for image in images)
    name = Path(images[0]).with_name(stem(images[0])).as_posix()
    return Case(name, paths, str(root / label) if label else None, "" if group is None else str(group))


def _short_names(splits: Mapping[str, Sequence[Case]]) -> dict[str, list[Case]]:
    """Cases with the bare file name as id, without the folder, where that is unique."""
    owners: dict[str, set[str]] = {}
    for case in (case for cases in splits.values() for case in cases):
        owners.setdefault(stem(case.id), set()).add(case.id)

    def bare(case: Case) -> Case:
        return replace(case, id=stem(case.id)) if len(owners[stem(case.id)]) == 1 else case

    return {split: [bare(case) for case in cases] for split, cases in splits.items()}


def _with_test_label(case: Case) -> Case:
    image = Path(case.images[0])
    label = image.parent.with_name(image.parent.name.replace("images", "labels")) / image.name
    return replace(case, label=str(label)) if case.label is None and label != image and label.is_file() else case


def _numbered_names(labels: Any, file: Path) -> dict[str, int]:
    """Classes from the Decathlon's `{"0": "background"}`, in order of value."""
    if labels is None:
        return {}
    try:
        values = {str(name): int(value) for value, name in labels.items()}
    except (AttributeError, ValueError):
        raise DataError(
            f'{file}: labels must be like {{"0": "background", "1": "tumor"}}, not {short(repr(labels))}.'
        ) from None
    return dict(sorted(values.items(), key=lambda pair: pair[1]))


@with_volume_options
def scans(
    data: Data,
    *,
    images: str = "images",
    labels: str = "labels",
    unlabeled: str = "",
    test_images: str = "",
    test_labels: str = "",
    image_suffix: str = "",
) -> Index:
    """Your own folders: one file with all channels per case, and one file with its label.

    Each images option is a folder (without its subfolders) or a glob such as `"*/t1.nii.gz"`; each labels option is a
    folder with files named like the images, or a pattern such as `"{dir}/seg"`, with or without an extension. A case is
    named after its file, or after its path where several files have the same name.

    Args:
        images: the labeled images.
        labels: their labels.
        unlabeled: the unlabeled images; same as `images`: its images without a label are unlabeled.
        test_images: test images; unset for none.
        test_labels: their labels.
        image_suffix: ending of image names that label names do not have, such as `_0000`.
    """
    root = root_of(data)
    among = bool(unlabeled) and root / unlabeled == root / images
    train, problems, passed = _pairs(root, images, labels, image_suffix, bare=among)
    splits = {"train": train}
    if unlabeled and not among:
        found, more, others = _images(root, unlabeled, "unlabeled")
        train += [Case(_name(root, path), (str(path),)) for path in found]
        problems += more
        passed += others
    if test_images:
        splits["test"], more, others = _pairs(root, test_images, test_labels, image_suffix, bare=False, key="test_")
        problems += more
        passed += others
    return Index(_short_names(splits), problems, passed=passed)


def _pairs(
    root: Path, images: str, labels: str, suffix: str, bare: bool, key: str = ""
) -> tuple[list[Case], list[str], list[Passed]]:
    """Images and their labels, problems, and what is not used; with `bare`, images may have no label."""
    found, problems, passed = _images(root, images, f"{key}images")
    finder = MaskFinder.of(root, images, labels, suffix, SUFFIXES, VOLUMES)
    if isinstance(finder.where, Mirror):
        _folder(root, labels, f"{key}labels")
    masks, twice = finder.all(found)
    problems += twice
    hint, passed_labels = "", finder.where.search()
    if isinstance(finder.where, Mirror):
        used, folder = set(masks.values()), root / images
        # Of two images of one name neither counts, which is a problem already.
        twins = {stem(path).removesuffix(suffix) for path in folder.iterdir()} if readable(folder) else set()
        own = [path for path in passed_labels.files if path not in used]
        lost = [path for path in own if path.parent == finder.where.folder and stem(path) not in twins]
        passed += [Passed(path, Reason.DEEPER) for path in own if path.parent != finder.where.folder]
        if lost:
            hint = _other_names({stem(path) for path in found}, [stem(path) for path in lost], labels, key)
            verb = "have" if lost[1:] else "has"
            problems.append(f"{some([str(path) for path in lost], 1)} {verb} no image in {folder}. {hint}".strip())
    else:
        known = {*masks.values(), *found}
        passed += unowned([path for path in passed_labels.files if path not in known], [path.name for path in found])
    if not bare and not hint:
        problems += [f"{path} has no label in {root / labels}." for path, mask in masks.items() if mask is None]
    cases = [Case(_name(root, path), (str(path),), str(mask) if mask else None) for path, mask in masks.items()]
    return [case for case in cases if bare or case.label], problems, [*passed, *passed_labels.passed]


def _other_names(images: Collection[str], labels: Sequence[str], option: str, key: str) -> str:
    """What to set where the labels without an image are called like images but for a common ending; else empty."""
    for end in ("_0000", "_image", "_img"):
        if labels and all(f"{name}{end}" in images for name in labels):
            return f'Images end in {end}: set data.layout.image_suffix = "{end}", or use the layout nnunet.'
    for end in ("_seg", "-seg", "_label", "_labels", "_mask", "_gt"):
        if labels and all(name.removesuffix(end) in images and name.endswith(end) for name in labels):
            return f'Labels end in {end}: set data.layout.{key}labels = "{option}/{{stem}}{end}".'
    return ""


def _images(root: Path, images: str, option: str) -> tuple[list[Path], list[str], list[Passed]]:
    """Images of a folder or of a glob, problems of their names, and what is not used. Raises DataError for none."""
    if "*" not in images:
        found = look_into(_folder(root, images, option))
        files, problems = by_stem(found.files)
        return list(files.values()), problems, list(found.passed)
    found = search_glob(root, images, VOLUMES)
    volumes = sorted({*found.files, *(path for path in root.glob(images) if is_series(path))})
    if not volumes:
        raise DataError(f"data.layout.{option} = {images!r} matches no volume in {root}.")
    return volumes, [], list(found.passed)


def _name(root: Path, path: Path) -> str:
    """A case's path below the root, without extension."""
    return below(path.with_name(stem(path)), root)


def _folder(root: Path, name: str, option: str) -> Path:
    if not name or not (root / name).is_dir():
        raise DataError(f"data.layout.{option} = {name!r} is not a folder in {root}.")
    return root / name


@with_volume_options
def cases(data: Data, *, file: str = "cases.csv") -> Index:
    """A table of cases: CSV with the columns case, image (or image_0, image_1, ... by channel), label, group, split.

    Paths are relative to `data.root`. A case without a label is unlabeled; `split` is train (or empty), val or test.

    Args:
        file: the table, below `data.root`.
    """
    root = root_of(data)
    rows, columns = read_table(root / file)
    images = sorted((c for c in columns if re.fullmatch(r"image(_\d+)?", c)), key=lambda c: (len(c), c))
    if (
        "case" not in columns
        or images not in (["image"], [f"image_{number}" for number in range(len(images))])
        or not images
    ):
        raise DataError(
            f"{root / file} has the columns {', '.join(columns) or '(none)'}.\n"
            "It needs case, and image or image_0, image_1, ...; label, group and split are optional."
        )
    where = f"{root / file}, line"
    unknown = [column for column in columns if column not in (*COLUMNS, *images)]
    problems = [f"{where} 1: unknown column {c!r}; known are {', '.join(COLUMNS)} and image_0, ..." for c in unknown]
    splits: dict[str, list[Case]] = {"train": []}
    lines: dict[str, int] = {}
    for line, row in rows:
        wrong = _row_problems(root, row, images)
        if row["case"] and (first := lines.setdefault(row["case"], line)) != line:
            wrong.append(f"case {row['case']} is already in line {first}.")
        problems += [f"{where} {line}: {text}" for text in wrong]
        if not wrong:
            paths, label = tuple(str(root / row[c]) for c in images), row.get("label")
            case = Case(row["case"], paths, str(root / label) if label else None, row.get("group", ""))
            splits.setdefault(SPLITS[row.get("split", "")], []).append(case)
    return Index(splits, problems)


def _row_problems(root: Path, row: Mapping[str, str], images: Sequence[str]) -> list[str]:
    """Problems of a single row."""
    split, label = row.get("split", ""), row.get("label", "")
    wrong = [] if row["case"] else ["the column case is empty."]
    wrong += [f"the column {column} is empty." for column in images if not row[column]]
    paths = [root / row[column] for column in (*images, "label") if row.get(column)]
    wrong += [f"{path} does not exist." for path in paths if not path.exists()]
    if row.get(""):
        wrong.append(f"there are more values than columns: {row['']}.")
    if split not in SPLITS:
        wrong.append(f"unknown split {split!r}; write train, val or test.")
    elif split in ("val", "test") and not label:
        wrong.append(f"a case of {split} needs a label.")
    return wrong


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """The content of a JSON file. Raises DataError when it cannot be read or is not a `kind`."""
    text = read_text(path, DataError, "Check data.root and the layout's options.")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(facts, kind):
        raise DataError(f"{path} does not hold a JSON {'object' if kind is dict else 'list'}.")
    return facts
