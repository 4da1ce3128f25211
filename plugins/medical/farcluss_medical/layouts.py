"""The layouts that data sets of one's own come in, each an entry point of the group `farcluss.dataset`."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from farcluss.data.layouts import read_table, root_of
from farcluss.errors import DataError
from farcluss.recipes.model import Data
from farcluss_medical.cases import Case, Index, stem, volumes_in
from farcluss_medical.options import with_volume_options

Kind = TypeVar("Kind", dict[str, Any], list[Any])
COLUMNS = ("case", "image", "label", "group", "split")
SPLITS = {"": "train", "train": "train", "val": "val", "test": "test"}


@with_volume_options
def decathlon(data: Data, *, file: str = "dataset.json") -> Index:
    """Medical Segmentation Decathlon, or a MONAI datalist: a JSON file that lists images and labels.

    `training` has pairs, `unlabeled` (ours) images alone, `validation` and `testing` pairs where there are any; an
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
            # Without labels there is nothing to score; some add those of the test images in a folder of their own.
            cases = [case for case in map(_with_test_label, cases) if case.label]
        if cases:
            splits.setdefault(split, []).extend(cases)
    return Index(_short_names(splits), problems, _numbered_names(facts.get("labels"), root / file))


def _entry(root: Path, entry: Any) -> Case | None:
    """A case of a datalist; None where it names no image."""
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
    """Cases called like their file, without its folder, where no other case is."""
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
    """Classes of the Decathlon's `{"0": "background"}`, in order of value."""
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
) -> Index:
    """Folders of one's own: a file with all channels per case, its label of the same name in another folder.

    Args:
        images: folder of the labeled images.
        labels: folder of their labels.
        unlabeled: folder of the unlabeled images; the same as `images` for those of its images that have no label.
        test_images: folder of the images of the split test; unset for none.
        test_labels: folder of their labels.
    """
    root = root_of(data)
    among = bool(unlabeled) and root / unlabeled == root / images
    train, problems = _pairs(root, images, labels, bare=among)
    splits = {"train": train}
    if unlabeled and not among:
        found, more = volumes_in(_folder(root, unlabeled, "unlabeled"))
        train += [Case(name, (str(path),)) for name, path in found.items()]
        problems += more
    if test_images:
        splits["test"], more = _pairs(root, test_images, test_labels, bare=False, key="test_")
        problems += more
    return Index(splits, problems)


def _pairs(root: Path, images: str, labels: str, bare: bool, key: str = "") -> tuple[list[Case], list[str]]:
    """Images and labels of one name; `bare`: an image may lack its label."""
    found, problems = volumes_in(_folder(root, images, f"{key}images"))
    masks, more = volumes_in(_folder(root, labels, f"{key}labels"))
    problems += more
    problems += [f"{path} has no image in {root / images}." for name, path in masks.items() if name not in found]
    if not bare:
        problems += [f"{path} has no label in {root / labels}." for name, path in found.items() if name not in masks]
    cases = [Case(n, (str(p),), str(masks[n]) if n in masks else None) for n, p in found.items() if bare or n in masks]
    return cases, problems


def _folder(root: Path, name: str, option: str) -> Path:
    if not name or not (root / name).is_dir():
        raise DataError(f"data.layout.{option} = {name!r} is no folder in {root}.")
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
            f"{root / file} has the columns {', '.join(columns) or 'of an empty file'}.\n"
            "It needs case, and image or image_0, image_1, ...; label, group and split as wanted."
        )
    where = f"{root / file}, line"
    unknown = [column for column in columns if column not in (*COLUMNS, *images)]
    problems = [f"{where} 1: unknown column {c!r}; known are {', '.join(COLUMNS)} and image_0, ..." for c in unknown]
    splits: dict[str, list[Case]] = {"train": []}
    lines: dict[str, int] = {}
    for line, row in rows:
        wrong = _row_problems(root, row, images)
        if row["case"] and (first := lines.setdefault(row["case"], line)) != line:
            wrong.append(f"case {row['case']} is in line {first} already.")
        problems += [f"{where} {line}: {text}" for text in wrong]
        if not wrong:
            paths, label = tuple(str(root / row[c]) for c in images), row.get("label")
            case = Case(row["case"], paths, str(root / label) if label else None, row.get("group", ""))
            splits.setdefault(SPLITS[row.get("split", "")], []).append(case)
    return Index(splits, problems)


def _row_problems(root: Path, row: Mapping[str, str], images: Sequence[str]) -> list[str]:
    """What is wrong with a row by itself."""
    split, label = row.get("split", ""), row.get("label", "")
    wrong = [] if row["case"] else ["there is no case."]
    wrong += [f"there is no {column}." for column in images if not row[column]]
    paths = [root / row[column] for column in (*images, "label") if row.get(column)]
    wrong += [f"{path} does not exist." for path in paths if not path.is_file()]
    if row.get(""):
        wrong.append(f"there are more values than columns: {row['']}.")
    if split not in SPLITS:
        wrong.append(f"unknown split {split!r}; write train, val or test.")
    elif split in ("val", "test") and not label:
        wrong.append(f"a case of {split} needs a label.")
    return wrong


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """The content of a JSON file. Raises DataError when it cannot be read or is of another kind."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and the layout's options.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(facts, kind):
        raise DataError(f"{path} holds no JSON {'object' if kind is dict else 'list'}.")
    return facts
