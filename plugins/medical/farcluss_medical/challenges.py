"""The layouts of public benchmarks, each an entry point of the group `farcluss.dataset`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from farcluss.data.accounting import Passed, Reason
from farcluss.data.base import Data
from farcluss.data.layouts import root_of
from farcluss.data.searching import search
from farcluss.errors import DataError, RecipeError
from farcluss.plugins.options import Count
from farcluss.recipes.texts import read_text
from farcluss_medical.cases import Case, Index, volumes_in
from farcluss_medical.options import check_channels, with_volume_options
from farcluss_medical.volumes import VOLUMES


class Edition(NamedTuple):
    """How files are named in some years of BraTS: `ID` + `joint` + modality; and the value of enhancing tumor."""

    joint: str
    modalities: tuple[str, ...]
    enhancing: int


EDITIONS = {
    "2018-2022": Edition("_", ("flair", "t1", "t1ce", "t2"), 4),
    "2023": Edition("-", ("t2f", "t1n", "t1c", "t2w"), 3),
}
LEFT_ATRIUM = "2018LA_Seg_Training Set"


@with_volume_options
def brats(
    data: Data,
    *,
    edition: Literal["2018-2022", "2023"] = "2018-2022",
    modalities: list[str] | None = None,
) -> Index:
    """BraTS: `ID/ID_flair.nii.gz` and so on, in `data.root` or in subfolders such as `HGG` and `LGG`.

    A case without `ID_seg` is unlabeled. There is no validation set with labels: give `data.val` a share or a list of
    ids. From 2023 on, scans of one patient (`BraTS-GLI-00005-000`, `-001`) stay in one set.

    Args:
        edition: 2018-2022 has `ID_{flair,t1,t1ce,t2,seg}` and enhancing tumor is 4; 2023 and later have
            `ID-{t2f,t1n,t1c,t2w,seg}` and enhancing tumor is 3.
        modalities: modalities to use as channels, in this order, such as `["flair"]`; unset: all four, as named above.
    """
    root, form = root_of(data), EDITIONS[edition]
    chosen = list(form.modalities) if modalities is None else modalities
    if unknown := [name for name in chosen if name not in form.modalities]:
        raise RecipeError(
            f"data.layout.modalities: edition {edition} has {', '.join(form.modalities)}, not {unknown[0]!r}."
        )
    check_channels(data, "data.layout.modalities has", chosen)
    cases: list[Case] = []
    problems: list[str] = []
    for folder in sorted(path for depth in ("*", "*/*") for path in root.glob(depth) if path.is_dir()):
        start = f"{folder.name}{form.joint}"
        files, more = volumes_in(folder)
        if any(start + name in files for name in (*form.modalities, "seg")):
            paths = tuple(str(files.get(start + name, folder / f"{start}{name}.nii.gz")) for name in chosen)
            label = files.get(f"{start}seg")
            patient = re.fullmatch(r"(.+)-\d{3}", folder.name) if edition == "2023" else None
            cases.append(Case(folder.name, paths, str(label) if label else None, patient[1] if patient else ""))
            problems += more
    if not cases:
        raise DataError(
            f"{root} and its folders have no folder ID with a file ID{form.joint}{form.modalities[0]}.nii.gz.\n"
            "Check data.root and data.layout.edition."
        )
    classes = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": form.enhancing}
    found, known = search(root, VOLUMES), {Path(case.images[0]).parent for case in cases}
    unfit = [Passed(path, Reason.UNFIT) for path in found.files if path.parent not in known]
    return Index({"train": cases}, problems, classes, {"modalities": chosen}, [*found.passed, *unfit], chosen)


@with_volume_options
def ssl4mis(data: Data, *, labeled_first: Count = 0) -> Index:
    """SSL4MIS: `data/ID.h5` with `image` and `label`, and the lists `train`, `val` and `test` (`.list` or `.txt`).

    The two frames of an ACDC patient stay in one set. With `dimensions = 2` slices are cut from the volumes, across
    their shortest axis; the files in `data/slices` are not used. The files have no spacing: it is taken as 1.

    Args:
        labeled_first: lines of the train list that are labeled; the labels of all others are not used. 0: all lines.
            The first 68 slices of ACDC's slice list are its first 6 volumes, the first 136 its first 14.
    """
    root = root_of(data)
    splits = {}
    for split in ("train", "val", "test"):
        names = _listed(root, split)
        if names or split == "train":
            splits[split] = [_hdf5_case(name, root / "data" / f"{name}.h5") for name in names]
    return _index(root, splits, labeled_first)


@with_volume_options
def left_atrium(data: Data, *, labeled_first: Count = 0) -> Index:
    """Left atrium 2018, as commonly distributed: `2018LA_Seg_Training Set/ID/mri_norm2.h5`, `train.list`, `test.list`.

    The distributed volumes, also unlabeled ones, are cropped around the left atrium.

    Args:
        labeled_first: lines of the train list that are labeled; the labels of all others are not used. 0: all lines.
    """
    root = root_of(data)
    splits = {}
    for split in ("train", "test"):
        names = _listed(root, split)
        if names or split == "train":
            splits[split] = [_hdf5_case(name, root / LEFT_ATRIUM / name / "mri_norm2.h5") for name in names]
    index = _index(root, splits, labeled_first)
    return replace(index, classes={"background": 0, "left atrium": 1})


def _listed(root: Path, split: str) -> list[str]:
    """Cases of `split.list` or `split.txt`; text after a comma is ignored."""
    path = next((path for end in (".list", ".txt") if (path := root / f"{split}{end}").is_file()), None)
    lines = read_text(path, DataError).splitlines() if path else []
    return [name for line in lines if (name := line.partition(",")[0].strip())]


def _hdf5_case(name: str, path: Path) -> Case:
    """A case whose file has image and label."""
    patient = re.fullmatch(r"(patient\d+)_frame\d+", name)
    return Case(name, (str(path),), str(path), patient[1] if patient else "")


def _index(root: Path, splits: Mapping[str, Sequence[Case]], labeled: int) -> Index:
    """The index with labels of only the first `labeled` training cases, so that no others can be read."""
    train = splits["train"]
    if not train:
        raise DataError(f"{root} has no train.list or train.txt with cases. Check data.root.")
    if labeled > len(train):
        raise RecipeError(f"data.layout.labeled_first = {labeled}, but the train list has {len(train)} lines.")
    bare = [replace(case, label=None) for case in train[labeled:]] if labeled else []
    return Index({**splits, "train": [*train[: len(train) - len(bare)], *bare]})
