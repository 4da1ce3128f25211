"""Properties and problems of every case of a data set: each file is read once, errors are collected."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Data, Sample
from farcluss.data.labels import LabelCounts, missing_classes, no_labels
from farcluss.errors import DataError, some
from farcluss_medical.cases import Case
from farcluss_medical.dataset import VolumeDataset
from farcluss_medical.fingerprint import volumes_of
from farcluss_medical.preprocessing import ANISOTROPIC, coarse_axis
from farcluss_medical.remarks import (
    contradicting_pixdim,
    flattened,
    is_flattened,
    single_slices,
    unusual_sizes,
    without_contrast,
)
from farcluss_medical.volumes import Header, Orientation, Storage, read_image, read_label, read_storage

AXES = ("right", "anterior", "superior")
FAR_APART = 100.0
"""Ratio of intensity maxima above which two cases cannot have a common scale."""
AIR = -500.0
"""Hounsfield units below which there is only air and lung: images with lower values are CT."""


@dataclass
class Row:
    """One case.

    Attributes:
        split: of the layout.
        case: identifier.
        labeled: whether it has a label file.
        shape: voxels, axes right, anterior, superior.
        spacing: millimeters, in the same order.
        channels: of the image.
        storage: how the first image file keeps its voxels.
        intensities: minimum and maximum per channel; empty if the image cannot be read.
        labels: voxels per label value, as the file has them; empty without a readable label.
        foreground: voxels of all classes but the first; None if unknown.
        flattened: whether outliers of a channel leave its other voxels no contrast.
    """

    split: str
    case: str
    labeled: bool
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    storage: Storage
    intensities: list[tuple[float, float]] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)
    foreground: int | None = None
    flattened: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = {key: getattr(self, key) for key in ("split", "case", "labeled", "shape", "spacing", "channels")}
        labels = {str(value): count for value, count in self.labels.items()} if self.labeled else None
        found = {"orientation": self.storage.orientation, "dtype": self.storage.dtype}
        return {**facts, **found, "intensities": self.intensities, "labels": labels}


@dataclass
class Report:
    """Findings so far: a row per case, and problems, each of which makes a case unusable."""

    data: Data
    dataset: VolumeDataset
    counts: LabelCounts
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Remarks on the cases, with advice."""
        texts = [note(self.rows, self) for note in _NOTES] if self.rows else ["There is no case that can be read."]
        return [text for text in texts if text]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"cases": [row.to_json() for row in self.rows], "notes": self.notes, "problems": self.problems}

    def option(self, name: str) -> Any:
        """An option of the recipe's layout; None where it is not set."""
        return self.data.layout.options.get(name)


def check(data: Data) -> tuple[Report, Iterator[Row]]:
    """Prepare the report of a recipe's cases, of all splits; the iterator does the reading. Raises FarclussError."""
    # With "skip", the data set lists the cases that it leaves out as findings: one report names everything.
    dataset = volumes_of(data.model_copy(update={"on_error": "skip"}))
    counts = LabelCounts(np.zeros(len(dataset.classes) + 1, np.int64))
    report = Report(data, dataset, counts, problems=dataset.findings())
    return report, _inspect(report)


def _inspect(report: Report) -> Iterator[Row]:
    for split, cases in report.dataset.index.splits.items():
        for case in cases:
            header = report.dataset.headers[case.id]
            orientation = Orientation.of(header)
            spacing = tuple(round(step, 6) for step in orientation.spacing(header.affine))
            try:
                storage = read_storage(case.images[0])
            except DataError as error:
                report.problems.append(str(error))
                continue
            channels = report.dataset.data.channel_count
            row = Row(split, case.id, bool(case.label), orientation.size(), spacing, channels, storage)
            for read in (_read_image, _read_label):
                try:
                    read(row, case, header, report)
                except DataError as error:
                    report.problems.append(str(error))
            report.rows.append(row)
            yield row
    if report.counts.empty:
        report.problems.append(no_labels("Labels", report.counts.masks))


def _read_image(row: Row, case: Case, header: Header, report: Report) -> None:
    voxels = read_image(case.images, report.dataset.preprocessing.zero_nan).voxels
    row.intensities = [(float(channel.min()), float(channel.max())) for channel in voxels]
    row.flattened = any(map(is_flattened, voxels))


def _read_label(row: Row, case: Case, header: Header, report: Report) -> None:
    if case.label is None:
        return
    label = read_label(case.label, case.images[0], header)
    row.labels = count(label)
    classes = report.dataset.masks.apply(label, case.label)
    report.counts.add(Sample(classes[None], classes))
    row.foreground = int(((classes > 0) & (classes != IGNORE)).sum())


def count(label: NDArray[np.integer]) -> dict[int, int]:
    """Voxels per value of an array of whole numbers, in order of value."""
    low, high = int(label.min()), int(label.max())
    if high - low >= 2**16:
        values, counts = np.unique(label, return_counts=True)
        return {int(value): int(number) for value, number in zip(values, counts, strict=True)}
    counts = np.bincount((label - low).astype(np.int64).ravel())
    return {low + int(place): int(counts[place]) for place in np.flatnonzero(counts)}


def _mixed_orientations(rows: Sequence[Row], report: Report) -> str:
    codes: dict[str, int] = {}
    for row in rows:
        codes[row.storage.orientation] = codes.get(row.storage.orientation, 0) + 1
    if len(codes) < 2:
        return ""
    listed = ", ".join(f"{code or 'unknown'} ({number})" for code, number in sorted(codes.items()))
    return (
        f"Files differ in orientation: {listed}. All are reoriented to right, anterior, superior; predictions get the "
        "orientation of their file."
    )


def _unplaced(rows: Sequence[Row], report: Report) -> str:
    lost = [row.case for row in rows if not row.storage.placed]
    if not lost:
        return ""
    return (
        f"Orientation unknown: {some(lost)} {'does' if len(lost) == 1 else 'do'} not say how the scan lies (NIfTI: "
        "sform_code and qform_code 0; NRRD: no space). Left and right may be swapped. Compare with other cases in a "
        "viewer, and write the correct affine into the files."
    )


def _disagreeing(rows: Sequence[Row], report: Report) -> str:
    apart = {row.case: row.storage.disagreement for row in rows if row.storage.disagreement > min(row.spacing) / 2}
    if not apart:
        return ""
    return (
        f"sform and qform disagree by up to {max(apart.values()):.3g} mm: {some(list(apart))}. The sform is used here; "
        "other programs may use the qform. Make them equal."
    )


def _different_spacings(rows: Sequence[Row], report: Report) -> str:
    if report.option("spacing") is not None:
        return ""
    texts = []
    for axis, name in enumerate(AXES):
        steps = [row.spacing[axis] for row in rows if len(row.spacing) == len(AXES)]
        if steps and max(steps) > ANISOTROPIC * min(steps):
            texts.append(f"{min(steps):.3g} to {max(steps):.3g} mm along {name}")
    if not texts:
        return ""
    return (
        f"Spacings differ between cases: {', '.join(texts)}. Voxels have no common size. Set data.layout.spacing; "
        "`farcluss medical fingerprint` suggests one."
    )


def _anisotropic(rows: Sequence[Row], report: Report) -> str:
    spacings = [row.spacing for row in rows if len(row.spacing) == len(AXES)]
    if not spacings or report.dataset.slice_axis is not None:
        return ""
    median = tuple(float(step) for step in np.median(spacings, axis=0))
    axis = coarse_axis(median)
    if axis is None:
        return ""
    return (
        f"Voxels are {median[axis] / min(median):.3g} times as long along {AXES[axis]} as along the others: "
        f"{' x '.join(f'{step:.3g}' for step in median)} mm (median). Train on slices with data.layout.dimensions = 2, "
        "or give data.crop fewer voxels there; `farcluss medical fingerprint` suggests a crop and a spacing."
    )


def _scales(rows: Sequence[Row], report: Report) -> str:
    for channel in range(max(len(row.intensities) for row in rows)):
        usable = (row for row in rows if row.intensities and not row.flattened)
        peaks = {row.case: row.intensities[channel][1] for row in usable if len(set(row.intensities[channel])) > 1}
        if not peaks:
            continue
        low, high = min(peaks, key=peaks.__getitem__), max(peaks, key=peaks.__getitem__)
        if peaks[high] > FAR_APART * max(peaks[low], 1.0):
            where = f" of channel {channel}" if report.dataset.data.channel_count > 1 else ""
            done = (report.option("normalize") or "zscore") == "zscore"
            advice = "The current zscore corrects this case by case" if done else 'Set data.layout.normalize = "zscore"'
            return (
                f"Intensities have no common scale: maxima{where} range from {peaks[low]:.4g} ({low}) to "
                f"{peaks[high]:.4g} ({high}). {advice}."
            )
    return ""


def _computed_tomography(rows: Sequence[Row], report: Report) -> str:
    lowest = min((low for row in rows for low, _ in row.intensities), default=0.0)
    normalize = report.option("normalize") or "zscore"
    if normalize == "ct" and not report.option("fingerprint"):
        return 'data.layout.normalize = "ct" needs data.layout.fingerprint, a file of `farcluss medical fingerprint`.'
    if lowest >= AIR or normalize != "zscore":
        return ""
    return (
        f"Intensities reach down to {lowest:.5g}, like the Hounsfield units of CT. These are comparable between cases, "
        'which zscore would undo: use data.layout.normalize = "ct", with the file of `farcluss medical fingerprint`.'
    )


def _empty(rows: Sequence[Row], report: Report) -> str:
    empty = [row.case for row in rows if row.foreground == 0]
    if not empty:
        return ""
    first = report.dataset.classes[0]
    return (
        f"No voxel of a class other than {first}: {some(empty)}. This is correct for cases without a finding; "
        "otherwise the label is missing."
    )


def _missing(rows: Sequence[Row], report: Report) -> str:
    if report.counts.empty:
        return ""
    return missing_classes(report.dataset.classes, report.counts, report.data, "any label", "voxel")


_NOTES: tuple[Callable[[Sequence[Row], Report], str], ...] = (
    _unplaced,
    _disagreeing,
    contradicting_pixdim,
    unusual_sizes,
    single_slices,
    _mixed_orientations,
    _different_spacings,
    _anisotropic,
    without_contrast,
    flattened,
    _scales,
    _computed_tomography,
    _missing,
    _empty,
)
