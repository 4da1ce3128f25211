"""The layouts for your own data sets, each an entry point of the group `farcluss.dataset`."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from farcluss.data.base import Data
from farcluss.data.layouts import read_table, root_of
from farcluss.data.pairing import MaskFinder, below
from farcluss.errors import DataError, some
from farcluss_medical.cases import Case, Index, stem, volumes_in
from farcluss_medical.itk import is_series
from farcluss_medical.options import with_volume_options
from farcluss_medical.volumes import SUFFIXES

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
            raise DataError(f"{root / file}: {key} must be a list of cases, not {entries!r}.")
        for number, entry in enumerate(entries):
            case = _entry(root, entry)
            if case is None:
                problems.append(f"{root / file}: entry {number} of {key} has no image: {entry!r}.")
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
    return Index(_short_names(splits), problems, _numbered_names(facts.get("labels"), root / file))


def _entry(root: Path, entry: Any) -> Case | None:
    """A case of a datalist; None if it has no image."""
    table = entry if isinstance(entry, dict) else {"image": entry}
    images = table.get("image")
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        return None
    label, group = table.get("label"), table.get("group")
    paths = tuple(str(root / image) for image in images)
    name = Path(images[0]).with_name(stem(images[0])).as_posix()
    return Case(name, paths, str(root / label) if label else None, "" if group is None else str(group))


def _short_names(splits: Mapping[str, Sequence[Case]]) -> dict[str, list[Case]]:
    """Cases with the bare file name as id, without the folder, where that is unique."""
    owners: dict[str, set[str]] = {}
    for case in (case for cases in splits.values() for case in cases):
        owners.setdefault(stem(case.id), set()).add(case.id)

    def short(case: Case) -> Case:
        return replace(case, id=stem(case.id)) if len(owners[stem(case.id)]) == 1 else case

    return {split: [short(case) for case in cases] for split, cases in splits.items()}


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
        raise DataError(f'{file}: labels must be like {{"0": "background", "1": "tumor"}}, not {labels!r}.') from None
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
    train, problems = _pairs(root, images, labels, image_suffix, bare=among)
    splits = {"train": train}
    if unlabeled and not among:
        found, more = _images(root, unlabeled, "unlabeled")
        train += [Case(_name(root, path), (str(path),)) for path in found]
        problems += more
    if test_images:
        splits["test"], more = _pairs(root, test_images, test_labels, image_suffix, bare=False, key="test_")
        problems += more
    return Index(_short_names(splits), problems)


def _pairs(
    root: Path, images: str, labels: str, suffix: str, bare: bool, key: str = ""
) -> tuple[list[Case], list[str]]:
    """Images and their labels; with `bare`, images may have no label."""
    found, problems = _images(root, images, f"{key}images")
    finder = MaskFinder.of(root, images, labels, suffix, SUFFIXES, SUFFIXES)
    masks = {path: finder(path) for path in found}
    by_glob, hint = not (root / images).is_dir(), ""
    if "{" not in labels:
        folder = _folder(root, labels, f"{key}labels")
        own, more = volumes_in(folder)
        used, known = set(masks.values()), set(own.values())
        twins = {stem(path).removesuffix(suffix) for path in (root / images).iterdir()} if not by_glob else set()
        lost = [path for path in own.values() if path not in used and stem(path) not in twins]
        hint = _other_names({stem(path) for path in found}, [stem(path) for path in lost], labels, key)
        if hint:
            problems.append(f"{root / images} has no image for {some([str(path) for path in lost], 1)}. {hint}")
        problems += [*more, *(f"{path} has no image in {root / images}." for path in lost if not hint)]
        # Of two labels with one name neither counts, and the case is left out.
        masks = {path: mask for path, mask in masks.items() if mask is None or mask.parent != folder or mask in known}
    if not bare and not hint:
        problems += [f"{path} has no label in {root / labels}." for path, mask in masks.items() if mask is None]
    cases = [Case(_name(root, path), (str(path),), str(mask) if mask else None) for path, mask in masks.items()]
    return [case for case in cases if bare or case.label], problems


def _other_names(images: Collection[str], labels: Sequence[str], option: str, key: str) -> str:
    """What to set where the labels without an image are called like images but for a common ending; else empty."""
    for end in ("_0000", "_image", "_img"):
        if labels and all(f"{name}{end}" in images for name in labels):
            return f'Images end in {end}: set data.layout.image_suffix = "{end}", or use the layout nnunet.'
    for end in ("_seg", "-seg", "_label", "_labels", "_mask", "_gt"):
        if labels and all(name.removesuffix(end) in images and name.endswith(end) for name in labels):
            return f'Labels end in {end}: set data.layout.{key}labels = "{option}/{{stem}}{end}".'
    return ""


def _images(root: Path, images: str, option: str) -> tuple[list[Path], list[str]]:
    """Images of a folder or of a glob, and problems of their names. Raises DataError for none."""
    if "*" not in images:
        found, problems = volumes_in(_folder(root, images, option))
        return list(found.values()), problems
    files = [path for path in sorted(root.glob(images)) if path.name.lower().endswith(SUFFIXES) or is_series(path)]
    if not files:
        raise DataError(f"data.layout.{option} = {images!r} matches no volume in {root}.")
    return files, []


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
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and the layout's options.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(facts, kind):
        raise DataError(f"{path} does not hold a JSON {'object' if kind is dict else 'list'}.")
    return facts
