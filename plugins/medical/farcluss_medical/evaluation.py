"""Score NIfTI files of predictions against those of ground truths, case by case."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farcluss.data.pairing import stem_of
from farcluss.errors import DataError
from farcluss.recipes.texts import read_text
from farcluss_medical.cases import stem
from farcluss_medical.metrics import Protocol, Scores, score
from farcluss_medical.volumes import SUFFIXES, Header, difference, read_header, read_label, spacing_of

TRUTH = re.compile(r"(.+)[_-]seg")
"""Name of a ground truth in the same folder as its images, as in BraTS."""

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Pair:
    """The files of one case."""

    case: str
    truth: Path
    prediction: Path


@dataclass(frozen=True)
class Region:
    """A class to score: one label, or several taken together."""

    name: str
    labels: tuple[int, ...]

    def mask(self, volume: Labels) -> NDArray[np.bool_]:
        """Where `volume` has one of the labels, shape S."""
        mask: NDArray[np.bool_] = np.logical_or.reduce([volume == label for label in self.labels])
        return mask


@dataclass(frozen=True)
class Row:
    """The scores of one class in one case."""

    case: str
    region: str
    scores: Scores


@dataclass
class Evaluation:
    """All scores, their classes, and unknown labels.

    Attributes:
        regions: The classes.
        rows: One per case and class, case by case.
        strange: Predicted labels that are in no class and no ground truth, with the number of cases.
    """

    regions: list[Region]
    rows: list[Row] = field(default_factory=list)
    strange: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Volume:
    """A label volume with its geometry; `labels` and `spacing` (mm) leave out axes of one voxel."""

    path: Path
    header: Header
    labels: Labels
    spacing: tuple[float, ...]


def pair_files(truths: Path, predictions: Path, only: Collection[str] | None = None) -> tuple[list[Pair], list[str]]:
    """Match ground truths and predictions by file name and folder below theirs, without `.nii`, `.nii.gz` or `.h5`.

    Two single files are a pair whatever their names. Ground truths may be named `CASE_seg` or `CASE-seg`, next to
    other files. With `only`, only these cases are matched.

    Returns:
        The pairs in the order of their names, and the names of the predictions without a ground truth.

    Raises:
        DataError: There is no volume, a name occurs twice, a ground truth has no prediction, or one of `only` is
            missing.
    """
    if truths.is_file() and predictions.is_file():
        ((case, truth),), ((_, prediction),) = _files(truths).items(), _files(predictions).items()
        return [Pair(case, truth, prediction)], []
    true_files, predicted_files = _files(truths), _files(predictions)
    if not set(true_files) <= set(predicted_files):
        among = {match[1]: path for case, path in true_files.items() if (match := TRUTH.fullmatch(case))}
        true_files = among or true_files
    maps = {f"{case}{end}" for case in predicted_files for end in ("_probs", "_entropy")}  # what `predict` adds
    predicted_files = {case: path for case, path in predicted_files.items() if case not in maps}
    if only is not None:
        true_files, predicted_files = _among(only, true_files, truths), _among(only, predicted_files, predictions)
    for case in set(true_files) - set(predicted_files):  # a DICOM series ID is predicted as ID/ID
        if path := predicted_files.pop(f"{case}/{Path(case).name}", None):
            predicted_files[case] = path
    if missing := sorted(set(true_files) - set(predicted_files)):
        raise DataError(
            f"{predictions}: {len(missing)} of {len(true_files)} ground truths lack a prediction, first {missing[0]}.\n"
            "Predictions must be named like their ground truths; predict the others, or give fewer ground truths."
        )
    pairs = [Pair(case, path, predicted_files[case]) for case, path in sorted(true_files.items())]
    return pairs, sorted(set(predicted_files) - set(true_files))


def read_cases(path: Path) -> list[str]:
    """Cases of a list, one per line, in the forms that data sets have: `ID`, `ID.nii.gz`, `ID,other columns`.

    Raises:
        DataError: the list cannot be read, or is empty.
    """
    lines = read_text(path, DataError).splitlines()
    names = [stem_of(line.partition(",")[0].strip(), SUFFIXES) for line in lines]
    if not any(names):
        raise DataError(f"List {path} names no case; give one per line.")
    return list(dict.fromkeys(filter(None, names)))


def _among(only: Collection[str], files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The files of some cases: of their name, or the only one in a folder of their name.

    Raises:
        DataError: a case has no file, or several in its folder.
    """
    inside: dict[str, list[str]] = {}
    for name in files:
        for part in Path(name).parent.parts:
            inside.setdefault(part, []).append(name)
    found = {case: [case] if case in files else inside.get(case, []) for case in only}
    if missing := sorted(case for case, names in found.items() if not names):
        raise DataError(f"{folder} has no file for {len(missing)} of {len(only)} listed cases, first {missing[0]}.")
    if several := next((case for case, names in found.items() if len(names) > 1), None):
        raise DataError(
            f"{folder}: the listed case {several} may be {found[several][0]} or {found[several][1]}.\n"
            "List cases by their files, below the folder and without extension."
        )
    return {case: files[names[0]] for case, names in found.items()}


def read_labels(path: Path) -> Volume:
    """Read a label volume as training does; from an HDF5 file its `label`, whose unknown spacing is taken as 1.

    Raises:
        DataError: The file is not a readable volume, or has values that are not integers.
    """
    header = read_header(str(path), "label")
    labels = read_label(str(path), str(path), header)
    kept = [axis for axis, size in enumerate(labels.shape) if size > 1] or [0]
    steps = spacing_of(header.affine)
    thick = labels.reshape([labels.shape[axis] for axis in kept])
    return Volume(path, header, thick, tuple(steps[axis] for axis in kept))


def evaluate(
    pairs: Sequence[Pair],
    regions: Sequence[Region] = (),
    *,
    ignore: int | None = None,
    tolerance: float = 1.0,
    protocol: Protocol = "farcluss",
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter,
) -> Evaluation:
    """Score every class in every case.

    Args:
        pairs: The files.
        regions: The classes; none: every integer but 0 in the ground truths, which are then read twice.
        ignore: Ground-truth value whose voxels are left out of both masks.
        tolerance: Distance up to which NSD counts a surface voxel as correct.
        protocol: Rules of `farcluss_medical.metrics.score`.
        progress: Iterates over the pairs, and may show the progress.

    Raises:
        DataError: A file cannot be read, the two of a case are not on the same grid, or there is no class.
    """
    known = {label for region in regions for label in region.labels}
    if not regions:
        known = _labels_of_all(pairs, ignore)
        regions = [Region(str(label), (label,)) for label in sorted(known)]
    elif ignore in known:
        raise DataError(f"The label {ignore} is both scored and ignored; choose one.")
    result = Evaluation(list(regions))
    strange: dict[str, set[int]] = {}
    for pair in progress(pairs):
        truth, prediction, spacing = _read_pair(pair, ignore)
        known |= _present(truth)
        strange[pair.case] = _present(prediction)
        for region in regions:
            masks = region.mask(truth), region.mask(prediction)
            scores = score(*masks, spacing, tolerance=tolerance, protocol=protocol)
            result.rows.append(Row(pair.case, region.name, scores))
    result.strange.update(label for labels in strange.values() for label in sorted(labels - known))
    return result


def _files(path: Path) -> dict[str, Path]:
    """Files of volumes by case name: a file itself, or those in a folder and its subfolders."""
    if not path.exists():
        raise DataError(f"{path} does not exist; give a NIfTI file or a folder of them.")
    candidates = [path] if path.is_file() else sorted(path.rglob("*"))
    files: dict[str, Path] = {}
    for file in candidates:
        name = file.name.lower()
        if not name.endswith(SUFFIXES) or name.startswith(".") or name.endswith(".img") or not file.is_file():
            continue
        case = stem(file) if file == path else file.relative_to(path).with_name(stem(file)).as_posix()
        if case in files:
            raise DataError(f"{path}: the case {case} exists as both {files[case].name} and {file.name}; remove one.")
        files[case] = file
    if not files:
        raise DataError(f"{path}: there is no .nii, .nii.gz or .h5 file here.")
    return files


def _read_pair(pair: Pair, ignore: int | None) -> tuple[Labels, Labels, tuple[float, ...]]:
    """Labels of ground truth and prediction, with ignored voxels as background, and the spacing in mm."""
    truth, prediction = read_labels(pair.truth), read_labels(pair.prediction)
    if text := difference(str(truth.path), truth.header, str(prediction.path), prediction.header):
        raise DataError(text)
    if ignore is None:
        return truth.labels, prediction.labels, truth.spacing
    valid = truth.labels != ignore
    return truth.labels * valid, prediction.labels * valid, truth.spacing


def _present(labels: Labels) -> set[int]:
    """The integers of a volume but 0."""
    return {int(label) for label in np.unique(labels)} - {0}


def _labels_of_all(pairs: Sequence[Pair], ignore: int | None) -> set[int]:
    """The integers of all ground truths but 0 and the ignored one."""
    found: set[int] = set()
    for pair in pairs:
        found |= _present(read_labels(pair.truth).labels)
    found -= {ignore}
    if not found:
        raise DataError(
            f"{pairs[0].truth.parent}: the ground truths hold no label but 0; name the classes with --labels."
        )
    return found
