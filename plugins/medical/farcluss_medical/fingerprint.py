"""Statistics of a recipe's training cases: the basis of spacing, crop and CT normalization."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Data
from farcluss.data.splits import resolve
from farcluss.errors import DataError, RecipeError
from farcluss.plugins import registry
from farcluss_medical.cache import make_image, make_mask
from farcluss_medical.cases import Case
from farcluss_medical.dataset import VolumeDataset
from farcluss_medical.preprocessing import ANISOTROPIC, Preprocessing
from farcluss_medical.volumes import Orientation

VERSION = 1
SAMPLES = 10_000
"""Maximum foreground voxels per case for percentiles, so that no large case outweighs the others."""
LOW, MEDIAN, HIGH = 0.5, 50.0, 99.5
FINE = 10.0
"""Percentile of the spacings of a coarse axis to resample to: the median would lose detail of finer cases."""
VOXELS = {2: 512**2, 3: 128**3}
"""Maximum voxels of a suggested crop, by number of axes."""


@dataclass(frozen=True)
class Labeled:
    """A labeled case; `slices` are the numbers of those that have a label, None for all."""

    case: Case
    slices: tuple[int, ...] | None = None


def volumes_of(data: Data) -> VolumeDataset:
    """The data set of a recipe that may have no fingerprint yet, without the options that need one.

    Raises:
        RecipeError: it is not a layout of volumes.
    """
    name, options = data.layout.name, data.layout.options
    needing = {"fingerprint": options.get("fingerprint"), "normalize": "ct", "spacing": "fingerprint"}
    kept = {key: value for key, value in options.items() if value != needing.get(key)}
    dataset = registry.build("dataset", name, kept, data)
    if not isinstance(dataset, VolumeDataset):
        raise RecipeError(
            f'data.layout = "{name}" is not a layout of volumes. Choose one of farcluss-medical: '
            "`farcluss plugins list`."
        )
    return dataset


def training_cases(dataset: VolumeDataset, data: Data) -> tuple[list[Labeled], list[Case]]:
    """Labeled and unlabeled cases that a recipe trains on. Raises DataError like `farcluss.data.splits.resolve`."""
    with tempfile.TemporaryDirectory() as folder:  # drawing a share may cache cases with other settings than training
        splits = resolve(replace(dataset, cache=replace(dataset.cache, folder=Path(folder))), data)
    slices: dict[str, list[int]] = {}
    cases: dict[str, Case] = {}
    for item in splits.labeled:
        case, number = dataset.find(item)
        cases[case.id] = case
        slices.setdefault(case.id, []).append(number)
    labeled = [Labeled(case, _places(dataset, case, slices[name])) for name, case in cases.items()]
    others = [dataset.find(item)[0] for item in splits.unlabeled]
    return labeled, list({case.id: case for case in others if case.id not in cases}.values())


def _places(dataset: VolumeDataset, case: Case, numbers: Sequence[int]) -> tuple[int, ...] | None:
    """Slice numbers of the resampled case as slice numbers of the original one; None for all slices."""
    if dataset.slice_axis is None:
        return None
    header = dataset.headers[case.id]
    count = dataset.preprocessing.size(header)[dataset.slice_axis]
    own = Orientation.of(header).size()[dataset.slice_axis]
    return None if len(numbers) == count else tuple(sorted({int((n + 0.5) * own / count) for n in numbers}))


def fingerprint(dataset: VolumeDataset, labeled: Iterable[Labeled], unlabeled: Sequence[Case]) -> dict[str, Any]:
    """The content of `fingerprint.json`.

    Only volumes of labeled cases are read, one by one. Axes are right, anterior, superior; lengths millimeters.

    Args:
        dataset: of the cases.
        labeled: labeled training cases.
        unlabeled: other training cases, of which only headers are read.

    Returns:
        Plain values. `version`; `labeled`, `unlabeled`: numbers of cases; `spacing`, `crop`: suggestions;
        `median_spacing`, `median_shape`; `intensities`: per channel `low` (0.5 %), `median`, `high` (99.5 %), `mean`
        and `std` of the voxels of all classes but the first; `class_voxels` by name; `cases`: `case`, `labeled`,
        `shape`, `spacing` of each.

    Raises:
        DataError: a file cannot be read, or no voxel of a labeled case is foreground.
    """
    plain = dataset.without_normalization()
    seen, intensities, counts = _measure(plain, labeled)
    if not intensities.count:
        raise DataError(_no_foreground(dataset, len(seen)))
    cases = [(case, True) for case in seen] + [(case, False) for case in unlabeled]
    return {
        "version": VERSION,
        "labeled": len(seen),
        "unlabeled": len(unlabeled),
        **_geometry(plain, [case for case, _ in cases]),
        "intensities": intensities.to_json(),
        "class_voxels": dict(zip(dataset.classes, counts.tolist(), strict=True)),
        "cases": [{"case": case.id, "labeled": flag, **_extent(plain, case)} for case, flag in cases],
    }


def _measure(plain: VolumeDataset, labeled: Iterable[Labeled]) -> tuple[list[Case], "Intensities", NDArray[np.int64]]:
    """The labeled cases, the intensities of their foreground, and their voxels per class."""
    cases, intensities = list[Case](), Intensities(plain.data.channel_count)
    counts = np.zeros(len(plain.classes), np.int64)
    for each in labeled:
        cases.append(each.case)
        mask = _labeled_part(plain, each)
        counts += np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(counts)]
        inside = (mask > 0) & (mask != IGNORE)
        intensities.add(make_image(each.case, plain.preprocessing)[:, inside].astype(np.float64))
    return cases, intensities, counts


def _no_foreground(dataset: VolumeDataset, cases: int) -> str:
    return (
        f"None of the {cases} labeled cases has a voxel of a class other than {dataset.classes[0]!r}: there are no "
        "intensities to measure.\nCheck data.classes; `farcluss medical check` counts the labels of each case."
    )


def _labeled_part(plain: VolumeDataset, labeled: Labeled) -> NDArray[np.uint8]:
    """The mask of a case, ignored in slices without a label."""
    mask = make_mask(labeled.case, plain.preprocessing, plain.masks)
    if labeled.slices is None or plain.slice_axis is None:
        return mask
    kept = np.full_like(mask, IGNORE)
    part = (slice(None),) * plain.slice_axis + (list(labeled.slices),)
    kept[part] = mask[part]
    return kept


@dataclass
class Intensities:
    """Statistics of voxels, added case by case.

    Mean and standard deviation use all voxels, percentiles at most `SAMPLES` per case.
    """

    channels: int
    count: int = 0
    means: NDArray[np.float64] = field(init=False)
    squares: NDArray[np.float64] = field(init=False)
    samples: list[NDArray[np.float64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.means, self.squares = np.zeros(self.channels), np.zeros(self.channels)

    def add(self, values: NDArray[np.float64]) -> None:
        """Voxels `(C, N)` of one case."""
        new = values.shape[1]
        if not new:
            return
        means, total = values.mean(1), self.count + new
        apart = means - self.means
        # Deviations from each case's own mean: sums of raw squares would lose precision for large values.
        self.squares += ((values - means[:, None]) ** 2).sum(1) + apart**2 * (self.count * new / total)
        self.means += apart * (new / total)
        self.count = total
        if new > SAMPLES:
            values = values[:, np.random.default_rng(0).choice(new, SAMPLES, replace=False)]
        self.samples.append(values)

    def to_json(self) -> list[dict[str, float]]:
        """Per channel `low`, `high`, `mean`, `std` and `median`."""
        low, median, high = np.percentile(np.concatenate(self.samples, axis=1), (LOW, MEDIAN, HIGH), axis=1)
        columns = {"low": low, "high": high, "mean": self.means, "std": np.sqrt(self.squares / self.count)}
        columns["median"] = median
        return [{key: float(column[index]) for key, column in columns.items()} for index in range(self.channels)]


def _extent(dataset: VolumeDataset, case: Case) -> dict[str, Any]:
    """Shape and spacing of a case, in the canonical order of axes."""
    header = dataset.headers[case.id]
    orientation = Orientation.of(header)
    # Headers keep float32: 0.7 mm would be 0.699999988.
    spacing = [round(step, 6) for step in orientation.spacing(header.affine)]
    return {"shape": list(orientation.size()), "spacing": spacing}


def _geometry(dataset: VolumeDataset, cases: Sequence[Case]) -> dict[str, Any]:
    """Suggestions and medians."""
    extents = [_extent(dataset, case) for case in cases]
    if len(axes := {len(extent["shape"]) for extent in extents}) > 1:
        raise DataError(f"Some cases have {min(axes)} axes, others {max(axes)}. Put them in separate data sets.")
    shapes = np.array([extent["shape"] for extent in extents], np.float64)
    spacings = np.array([extent["spacing"] for extent in extents], np.float64)
    target = suggest_spacing(spacings, shapes)
    resampled = np.median([_size(dataset, case, target) for case in cases], axis=0).astype(int)
    kept = [axis for axis in range(shapes.shape[1]) if axis != dataset.slice_axis]
    crop = suggest_crop([target[axis] for axis in kept], [int(resampled[axis]) for axis in kept], VOXELS[len(kept)])
    return {
        "spacing": list(target),
        "crop": list(crop),
        "median_spacing": np.median(spacings, axis=0).tolist(),
        "median_shape": np.median(shapes, axis=0).tolist(),
    }


def _size(dataset: VolumeDataset, case: Case, spacing: tuple[float, ...]) -> tuple[int, ...]:
    return Preprocessing("none", spacing).size(dataset.headers[case.id])


def suggest_spacing(spacings: NDArray[np.float64], shapes: NDArray[np.float64]) -> tuple[float, ...]:
    """Millimeters per voxel to resample to: the median of each axis.

    Where that is more than three times as coarse as on the other axes, with less than a third of their voxels, the data
    set has thick slices: the 10th percentile of that axis keeps the detail of finer cases,
    but is never finer than the other axes.

    Args:
        spacings: `(N, axes)` of the cases, in millimeters.
        shapes: `(N, axes)` of the cases, in voxels.
    """
    target, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    axis = int(np.argmax(target))
    others = np.arange(len(target)) != axis
    if target[axis] > ANISOTROPIC * target[others].max() and shape[axis] * ANISOTROPIC < shape[others].min():
        target[axis] = max(float(np.percentile(spacings[:, axis], FINE)), float(target[others].max()))
    return tuple(round(float(step), 6) for step in target)


def suggest_crop(spacing: Sequence[float], shape: Sequence[int], voxels: int) -> tuple[int, ...]:
    """Voxels per axis of a crop with equal lengths in millimeters, as far as the image allows.

    A shorter axis is taken whole, and the others grow. Sides are rounded down to a multiple of 16
    (of 8 below 32, not at all below 8), which networks with four halvings divide evenly.

    Args:
        spacing: millimeters per voxel of the resampled image.
        shape: its voxels.
        voxels: maximum number in total.
    """
    steps, extents = np.array(spacing, np.float64), np.array(shape, np.float64)
    sides, free = extents.copy(), np.ones(len(steps), bool)
    while free.any():
        edge = (voxels / extents[~free].prod() * steps[free].prod()) ** (1 / free.sum())
        short = free & (edge / steps > extents)
        if not short.any():
            sides[free] = edge / steps[free]
            break
        free &= ~short
    return tuple(_even(int(side + 1e-6)) for side in sides)


def _even(side: int) -> int:
    unit = 16 if side >= 32 else 8 if side >= 8 else 1
    return max(1, side // unit * unit)


def to_text(facts: dict[str, Any]) -> str:
    """The text of the file: JSON with a line per key, channel and case, for readers and diffs."""
    lines = []
    for key, value in facts.items():
        text = json.dumps(value)
        if isinstance(value, list) and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        lines.append(f' "{key}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}\n"
