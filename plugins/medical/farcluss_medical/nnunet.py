"""The layout of nnU-Net v2."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farcluss.data.accounting import Passed
from farcluss.data.base import Data
from farcluss.data.layouts import root_of
from farcluss.data.searching import Found, only_in, search, whole
from farcluss.errors import DataError, short
from farcluss.plugins.options import Count
from farcluss_medical.cases import Case, Index
from farcluss_medical.layouts import read_json
from farcluss_medical.options import check_channels, with_volume_options
from farcluss_medical.volumes import SUFFIXES

IMAGES, LABELS = "imagesTr", "labelsTr"


@with_volume_options
def nnunet(data: Data, *, fold: Count | None = None, unlabeled: str = "imagesUn") -> Index:
    """nnU-Net v2: `dataset.json`, `imagesTr/CASE_0000.nii.gz` with a file per channel, `labelsTr/CASE.nii.gz`.

    `imagesTs` with `labelsTs` is the split test; `imagesUn` (farcluss only) has unlabeled images.

    Args:
        fold: number of the fold in `splits_final.json` that gives `train`, `val` and `unlabeled` (farcluss only; their
            labels are not used); unset: `imagesTr` is the split train.
        unlabeled: folder of unlabeled images; with `imagesTr`, its images without a label are unlabeled.
    """
    root = root_of(data)
    file = root / "dataset.json"
    facts = read_json(file, dict)
    form = _Form.of(facts, file)
    check_channels(data, f"{file} names", form.channels)
    train, problems, passed = form.cases(root / IMAGES, root / LABELS)
    if not train:
        raise DataError(f"{root / IMAGES} has no images CASE_0000{form.ending}. Check data.root.")
    splits, hidden = {"train": list(train.values())}, list[Case]()
    if fold is not None:
        splits, hidden, more = _of_fold(root / "splits_final.json", fold, train)
        problems += more
    if Path(unlabeled) != Path(IMAGES):
        alone, more, others = form.cases(root / unlabeled, None)
        passed += others
        if not alone and Path(unlabeled) != Path("imagesUn"):
            raise DataError(f"{root / unlabeled} has no images CASE_0000{form.ending}. Check data.layout.unlabeled.")
        hidden += alone.values()
        problems += more
        bare = [case for cases in splits.values() for case in cases if not case.label]
        problems += [f'{case.images[0]} has no label; data.layout.unlabeled = "{IMAGES}" allows it.' for case in bare]
        splits = {split: [case for case in cases if case.label] for split, cases in splits.items()}
    splits["train"] += hidden
    test, more, others = form.cases(root / "imagesTs", root / "labelsTs")
    if scored := [case for case in test.values() if case.label]:
        splits["test"] = scored
    classes = _classes(facts.get("labels"), file, data)
    return Index(
        splits, problems + more, classes, passed=[*passed, *(others if scored else [])], channels=form.channels
    )


@dataclass(frozen=True)
class _Form:
    """File naming from `dataset.json`: names of the channels, and the file ending."""

    channels: list[str]
    ending: str

    @classmethod
    def of(cls, facts: dict[str, Any], file: Path) -> "_Form":
        names, ending = facts.get("channel_names"), facts.get("file_ending")
        if not isinstance(names, dict) or not isinstance(ending, str):
            raise DataError(f"{file} is not of nnU-Net v2, which has channel_names and file_ending.")
        if ending not in SUFFIXES:
            raise DataError(f"{file}: files that end in {short(ending)!r} cannot be read; convert them to .nii.gz.")
        return cls([str(name) for name in names.values()], ending)

    def cases(self, images: Path, labels: Path | None) -> tuple[dict[str, Case], list[str], list[Passed]]:
        """Cases of a folder, with all channels that they should have, problems of the names, and what is not used."""
        problems: list[str] = []
        own, passed = self._files(images)
        masks, others = self._files(labels) if labels else ({}, [])
        numbers: dict[str, set[int]] = {}
        for name in own:
            if match := re.fullmatch(r"(.+)_(\d{4})", name):
                numbers.setdefault(match[1], set()).add(int(match[2]))
            else:
                problems.append(f"{images / name}{self.ending}: images must be named CASE_0000{self.ending}.")
        problems += [f"{path} has no image in {images}." for name, path in masks.items() if name not in numbers]
        cases = {}
        for name, found in numbers.items():
            channels = [f"{name}_{number:04d}" for number in sorted(found | set(range(len(self.channels))))]
            paths = tuple(str(own.get(channel, images / f"{channel}{self.ending}")) for channel in channels)
            cases[name] = Case(name, paths, str(masks[name]) if name in masks else None)
        return cases, problems, [*passed, *others]

    def _files(self, folder: Path) -> tuple[dict[str, Path], list[Passed]]:
        """Files of a folder by name, and what else lies there."""
        found = only_in(folder, whole(search(folder, [self.ending]))) if folder.is_dir() else Found()
        return {path.name[: -len(self.ending)]: path for path in found.files}, list(found.passed)


def _of_fold(file: Path, fold: int, cases: dict[str, Case]) -> tuple[dict[str, list[Case]], list[Case], list[str]]:
    """Splits of a fold, its unlabeled cases, and problems for names that no case has."""
    folds = read_json(file, list)
    if fold >= len(folds):
        raise DataError(f"data.layout.fold = {fold}, but {file} has the folds 0 to {len(folds) - 1}.")
    lists = folds[fold] if isinstance(folds[fold], dict) else {}
    if not {"train", "val"} <= set(lists) or not all(map(_texts, lists.values())):
        raise DataError(f"{file}, fold {fold}: it must have the lists train and val, of names of cases.")
    problems = []
    found: dict[str, list[Case]] = {}
    for key in ("train", "val", "unlabeled"):
        names = lists.get(key, [])
        problems += [f"{file}, fold {fold}: {name} of {key} is not in {IMAGES}." for name in names if name not in cases]
        found[key] = [cases[name] for name in names if name in cases]
    return found, [replace(case, label=None) for case in found.pop("unlabeled")], problems


def _classes(labels: Any, file: Path, data: Data) -> dict[str, int | list[int]]:
    """Label values by class, in order of value; empty where the recipe has its own."""
    if data.classes is not None:
        return {}
    if not isinstance(labels, dict) or not all(_whole(value) for value in labels.values()):
        raise DataError(f'{file}: labels must be like {{"background": 0, "tumor": 1}}, not {short(repr(labels))}.')
    values = {str(name): _list(value) for name, value in labels.items()}
    ignored = values.pop("ignore", [])
    if missing := [value for value in ignored if value not in _list(data.ignore_index)]:
        raise DataError(f"{file}: label {missing[0]} is marked as ignored. Set data.ignore_index = {missing[0]}.")
    counts = Counter(value for own in values.values() for value in own)
    if shared := [value for value, count in counts.items() if count > 1]:
        names = [name for name, own in values.items() if shared[0] in own]
        raise DataError(
            f"{file}: labels are overlapping regions: {' and '.join(map(repr, names[:2]))} both contain {shared[0]}.\n"
            "Set data.classes to parts that do not overlap, such as { background = 0, edema = 1, core = 2 }."
        )
    return {name: values[name] for name in sorted(values, key=lambda name: min(values[name]))}


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _whole(value: Any) -> bool:
    return bool(_list(value)) and all(isinstance(each, int) for each in _list(value))
