"""Cases: which files belong together, in which split, and the problems that file headers reveal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from farcluss.data.accounting import Passed
from farcluss.data.base import Data
from farcluss.data.layouts import settle_channels
from farcluss.data.pairing import stem_of
from farcluss.data.searching import Found, only_in, readable, search, whole
from farcluss.errors import DataError
from farcluss_medical.itk import is_series
from farcluss_medical.volumes import SUFFIXES, VOLUMES, Header, difference, read_header

SPLITS = ("train", "val", "test")
"""A patient in several splits stays only in the last of them, so is not trained on."""


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        id: identifier, unique in the data set.
        images: a file with all channels, or a file per channel in their order.
        label: file with the classes; None for an unlabeled case.
        group: patient; empty where every case is a patient of its own.
    """

    id: str
    images: tuple[str, ...]
    label: str | None = None
    group: str = ""

    @property
    def patient(self) -> str:
        """The patient, or the case itself: never split between training and held-out cases."""
        return self.group or self.id


@dataclass(frozen=True)
class Index:
    """What a layout has found.

    Attributes:
        splits: cases by split: train (labeled and unlabeled), val, test.
        problems: what is missing or contradictory; these cases are in no split.
        classes: names and label values that the data set itself gives; empty where it gives none.
        options: resolved options of the layout that predictions depend on; stored in weights files.
        passed: entries of its folders that are not used.
        channels: names of the channels, such as MR sequences; empty where the data set gives none.
    """

    splits: Mapping[str, Sequence[Case]]
    problems: Sequence[str] = ()
    classes: Mapping[str, int | list[int]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    passed: Sequence[Passed] = ()
    channels: Sequence[str] = ()


def stem(path: str | Path) -> str:
    """Name of a file without the extensions that volumes have."""
    return stem_of(Path(path).name, SUFFIXES)


def look_into(folder: Path) -> Found:
    """Volumes directly in a folder, and what else lies in it. A subfolder with DICOM files is a volume of its own."""
    found = only_in(folder, whole(search(folder, VOLUMES)))
    series = {path for path in (sorted(folder.iterdir()) if readable(folder) else []) if path.name[0] != "."}
    series = {path for path in series if is_series(path)}
    passed = [entry for entry in found.passed if entry.path not in series and entry.path.parent not in series]
    return Found(sorted({*found.files, *series}), passed)


def by_stem(files: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    """Volumes by their stem; stems of several files are left out and reported."""
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(stem(path), []).append(path)
    problems = [f"{p[0]} and {p[1]} are both named {name}. Remove one of them." for name, p in found.items() if p[1:]]
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}, problems


def volumes_in(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Volumes directly in a folder by their stem, and problems, see `by_stem`."""
    return by_stem(look_into(folder).files)


def verify(index: Index, data: Data) -> tuple[Index, dict[str, Header], int]:
    """The cases of an index whose files exist and agree, with their headers; other cases become problems.

    Args:
        index: of a layout.
        data: section of the recipe, which may say how many channels images have.

    Returns:
        The index, header of the first image by case, and the number of channels.
    """
    problems = [*index.problems, *_divided_patients(index.splits)]
    headers: dict[str, Header] = {}
    first: dict[str, Case] = {}
    counts: dict[str, int] = {}
    homes = {case.patient: split for split in SPLITS for case in index.splits.get(split, ())}
    splits: dict[str, list[Case]] = {}
    for split, cases in index.splits.items():
        splits[split] = []
        for case in cases:
            if split != homes[case.patient]:
                problems += _defects(case)[0]
                continue
            if other := first.get(case.id):
                problems.append(f"Case {case.id} occurs twice: {other.images[0]} and {case.images[0]}.")
                continue
            first[case.id] = case
            found, images = _defects(case)
            problems += found
            if not found:
                splits[split].append(case)
                headers[case.id], counts[case.images[0]] = images[0], sum(header.channels for header in images)
    channels, odd = settle_channels(data, counts)
    splits = {name: [case for case in own if counts[case.images[0]] == channels] for name, own in splits.items()}
    headers = {case.id: headers[case.id] for own in splits.values() for case in own}
    return replace(index, splits=splits, problems=list(dict.fromkeys([*problems, *odd]))), headers, channels


def _defects(case: Case) -> tuple[list[str], Sequence[Header]]:
    """Problems of a single case's files, and the headers of its images."""
    names = [*case.images, *([case.label] if case.label else [])]
    missing = [f"{path} does not exist (case {case.id})." for path in dict.fromkeys(names) if not Path(path).exists()]
    if missing:
        return missing, ()
    try:
        headers = [read_header(path) for path in case.images]
        headers += [read_header(case.label, "label")] if case.label else []
    except DataError as error:
        return [str(error)], ()
    images = headers[: len(case.images)]
    if case.label == case.images[0]:
        names[-1] = f"The label in {case.label}"
    pairs = zip(names[1:], headers[1:], strict=True)
    found = [text for path, header in pairs if (text := difference(names[0], headers[0], path, header))]
    if case.label and headers[-1].channels > 1:
        found.append(f"{case.label} has {headers[-1].channels} values per voxel; a label has one class per voxel.")
    return found, images


def _divided_patients(splits: Mapping[str, Sequence[Case]]) -> Iterable[str]:
    """Patients that are in more than one split."""
    owners: dict[str, str] = {}
    reported = set()
    for split, cases in splits.items():
        for case in cases:
            other = owners.setdefault(case.patient, split)
            if other != split and case.patient not in reported:
                reported.add(case.patient)
                yield (
                    f"Patient {case.patient} is in both {other} and {split}: scores would be computed on training data."
                )
