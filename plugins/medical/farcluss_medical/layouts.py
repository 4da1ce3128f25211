"""The layouts that public data sets of scans come in, each an entry point of the group `farcluss.dataset`."""

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from farcluss.errors import DataError
from farcluss.recipe import Data
from farcluss_medical.cases import Case, Index, stem, volumes_in
from farcluss_medical.options import root_of, with_volume_options


@with_volume_options
def decathlon(data: Data, *, file: str = "dataset.json") -> Index:
    """Medical Segmentation Decathlon, or a MONAI datalist: a JSON file that lists images and labels.

    `training` has pairs, `unlabeled` (ours) images alone, `validation` and `testing` pairs where there are any; an
    `image` may be a list with a file per channel, a `group` names the patient.

    Args:
        file: the JSON file, below `data.root`.
    """
    root = root_of(data)
    facts = _read_json(root / file)
    labels = facts.get("labels")
    classes = {str(name): int(value) for value, name in labels.items()} if isinstance(labels, dict) else {}
    splits: dict[str, list[Case]] = {"train": []}
    problems: list[str] = []
    keys = {"training": "train", "unlabeled": "train", "validation": "val", "testing": "test", "test": "test"}
    for key, split in keys.items():
        entries = facts.get(key, [])
        cases = [_entry(root, entry, root / file) for entry in entries]
        if key == "training":
            problems += [f"{root / file}: {case.id} of training has no label." for case in cases if not case.label]
            cases = [case for case in cases if case.label]
        elif split != "train":
            # Without labels there is nothing to score; some add those of the test images in a folder of their own.
            cases = [case for case in map(_with_test_label, cases) if case.label]
        if cases or key == "training":
            splits.setdefault(split, []).extend(cases)
    return Index(splits, problems, classes)


def _entry(root: Path, entry: Any, file: Path) -> Case:
    """A case of a datalist."""
    table = entry if isinstance(entry, dict) else {"image": entry}
    images = table.get("image")
    images = [images] if isinstance(images, str) else images
    if not images or not all(isinstance(image, str) for image in images):
        raise DataError(f"{file}: {entry!r} has no image. Each entry names an image, or a list with one per channel.")
    label = table.get("label")
    paths = tuple(str(root / image) for image in images)
    return Case(stem(images[0]), paths, str(root / label) if label else None, str(table.get("group", "")))


def _with_test_label(case: Case) -> Case:
    image = Path(case.images[0])
    label = image.parent.with_name(image.parent.name.replace("images", "labels")) / image.name
    return replace(case, label=str(label)) if case.label is None and label != image and label.is_file() else case


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and data.layout.file.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path} holds no JSON object.")
    return facts
