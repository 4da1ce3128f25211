"""Remarks of `farcluss medical check` on voxel sizes and intensities that training would suffer from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farcluss.errors import some

if TYPE_CHECKING:
    from farcluss_medical.checks import Report, Row

SANE = (0.05, 20.0)
"""Millimeters per voxel of scans: below are microscopes, above are wrong units."""
FLAT = 0.2
"""A channel is flattened if 99 % of its nonzero voxels lie within this share of their standard deviation."""


def is_flattened(channel: NDArray[np.float32]) -> bool:
    """Whether a few outliers of a channel `(*S)` leave its other voxels no contrast after zscore."""
    values = channel[channel != 0].astype(np.float64)
    if not len(values) or values.std() == 0:
        return False
    low, high = np.percentile(values, (0.5, 99.5))
    return bool(high - low < FLAT * values.std())


def unusual_sizes(rows: "Sequence[Row]", report: "Report") -> str:
    """Voxels that no scanner makes."""
    odd = {row.case: row.spacing for row in rows if not SANE[0] <= min(row.spacing) <= max(row.spacing) <= SANE[1]}
    if not odd:
        return ""
    first = " x ".join(f"{step:.3g}" for step in next(iter(odd.values())))
    return (
        f"Unusual voxel sizes: {some(list(odd))} (first {first} mm); scans have {SANE[0]:g} to {SANE[1]:g} mm. Check "
        "the affine and its unit, for NIfTI xyzt_units."
    )


def contradicting_pixdim(rows: "Sequence[Row]", report: "Report") -> str:
    """Sizes of voxels that other programs may read differently."""
    odd = {row.case: row.storage.pixdim for row in rows if row.storage.pixdim}
    if not odd:
        return ""
    first = " x ".join(f"{step:.3g}" for step in next(iter(odd.values())))
    return (
        f"pixdim and sform disagree about the voxel size: {some(list(odd))} (first {first} mm by pixdim). The sform is "
        "used here, also for scores; other programs may use pixdim. Make them equal."
    )


def single_slices(rows: "Sequence[Row]", report: "Report") -> str:
    """Pictures among volumes."""
    flat = [row.case for row in rows if min(row.shape) == 1]
    if not flat or report.dataset.slice_axis is not None:
        return ""
    return f"Single slices: {some(flat)}. For these train with data.layout.dimensions = 2."


def without_contrast(rows: "Sequence[Row]", report: "Report") -> str:
    """Images of one value."""
    constant = [row.case for row in rows if any(low == high for low, high in row.intensities)]
    if not constant:
        return ""
    return f"All voxels of a channel are equal: {some(constant)}. Replace these files, or take the cases out."


def flattened(rows: "Sequence[Row]", report: "Report") -> str:
    """Images whose outliers zscore would let outweigh everything else."""
    lost = {row.case: max(high for _, high in row.intensities) for row in rows if row.flattened}
    if not lost or (report.option("normalize") or "zscore") != "zscore" or report.option("clip"):
        return ""
    return (
        f"Outliers flatten {some(list(lost))} (first up to {next(iter(lost.values())):.4g}): zscore leaves almost no "
        "contrast to the other voxels. Set data.layout.clip = [0.5, 99.5], percentiles that intensities are clipped to."
    )
