"""The summary of an evaluation: means with intervals, counts of empty masks, and a description of the protocol."""

import csv
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss_medical.evaluation import Evaluation, Region
from farcluss_medical.metrics import METRICS, Protocol

RESAMPLES, SEED = 2000, 0
NOTICE = "Research use only: these scores are no basis for clinical decisions."
FLATTERS = (
    "Protocol ssl4mis: distances in voxels, one percentile over both surfaces, ASD from the prediction alone, and a "
    "missed structure or false positive gets the distance 0. "
    "This flatters; use it only to compare with published numbers."
)
INTERVALS = (
    f"Means over cases, with 95 % percentile bootstrap intervals over cases ({RESAMPLES} resamples, seed {SEED})."
)


def describe(protocol: Protocol, tolerance: float) -> str:
    """A description of a protocol."""
    unit = "voxels" if protocol == "ssl4mis" else "mm"
    common = (
        "Dice and IoU over voxels. A surface voxel has a face neighbor outside the mask or the image; distances are "
        f"between centers of surface voxels, in {unit}. nsd: share of both surfaces within {tolerance:g} {unit} of the "
        "other. "
    )
    if protocol == "ssl4mis":
        rules = (
            "hd95: 95th percentile of both directed sets pooled. asd: mean distance from the prediction's surface to "
            "the ground truth's. A case in which one mask is empty, or both, scores 0 in everything: a perfect "
            "distance, which flatters. "
        )
    else:
        rules = (
            "Spacing from the ground truth's header. hd95: the larger of the two directed 95th percentiles. assd: mean "
            "over the voxels of both surfaces. Both masks empty: left out of the means, and counted. One mask empty "
            "(missed or false positive): dice, iou and nsd 0, hd95 and assd the image's diagonal in mm, and counted. "
        )
    return common + rules + INTERVALS


def summarize(evaluation: Evaluation, protocol: Protocol, tolerance: float) -> dict[str, Any]:
    """The summary for JSON: every number is finite or None."""
    classes = [_class(evaluation, region, protocol) for region in evaluation.regions]
    return {
        "protocol": {"name": protocol, "tolerance": tolerance, "text": describe(protocol, tolerance)},
        "notice": NOTICE,
        "cases": len({row.case for row in evaluation.rows}),
        "classes": classes,
        "mean": {
            name: _finite(_mean([one[name]["mean"] for one in classes if one[name]["mean"] is not None]))
            for name in METRICS[protocol]
        },
        "unknown_labels": {str(label): cases for label, cases in sorted(evaluation.strange.items())},
    }


def to_csv(evaluation: Evaluation, protocol: Protocol) -> str:
    """One line per case and class; a score that is not defined is `nan`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "class", "true_voxels", "predicted_voxels", *METRICS[protocol], "flag"])
    for row in evaluation.rows:
        scores = row.scores
        values = [str(float(scores.values[name])) for name in METRICS[protocol]]
        writer.writerow([row.case, row.region, scores.true_voxels, scores.predicted_voxels, *values, scores.flag])
    return text.getvalue()


def bootstrap(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """95 % interval of the mean of each column by resampling rows, shape (2, M) from (cases, M)."""
    random = np.random.default_rng(SEED)
    size = len(values)
    means = np.stack([values[random.integers(size, size=size)].mean(axis=0) for _ in range(RESAMPLES)])
    interval: NDArray[np.float64] = np.percentile(means, (2.5, 97.5), axis=0)
    return interval


def _class(evaluation: Evaluation, region: Region, protocol: Protocol) -> dict[str, Any]:
    """Summary of one class."""
    scores = [row.scores for row in evaluation.rows if row.region == region.name]
    flags = [one.flag for one in scores]
    counts = {flag.replace("-", "_"): flags.count(flag) for flag in ("both-empty", "missed", "false-positive")}
    summary = {"class": region.name, "labels": list(region.labels), "cases": len(scores), **counts}
    table = np.array([[one.values[name] for name in METRICS[protocol]] for one in scores])
    table = table[~np.isnan(table[:, 0])]  # two empty masks make a whole row undefined
    intervals = bootstrap(table) if len(table) > 1 else np.full((2, table.shape[1]), math.nan)
    for column, name in enumerate(METRICS[protocol]):
        values = table[:, column]
        summary[name] = {
            "mean": _finite(_mean(values)),
            "median": _finite(float(np.median(values)) if len(values) else math.nan),
            "interval": [_finite(float(bound)) for bound in intervals[:, column]] if len(values) > 1 else None,
        }
    return summary


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
