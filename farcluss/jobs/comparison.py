"""What the runs of a comparison say: scores, their spread, differences with intervals, and a sentence on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from farcluss.errors import counted
from farcluss.inference.intervals import LEVEL, Difference, paired_difference
from farcluss.inference.per_image import PerImage, iou, mean_iou, read_per_image
from farcluss.jobs.comparing import Job
from farcluss.runs.folder import RunFolder

FEW = 5
"""Seeds below which an interval over seeds is a guess."""


@dataclass(frozen=True)
class Result:
    """What a run gives.

    Attributes:
        job: the run.
        images: counts of each image, by the weights of the last step.
        best: highest mIoU of the validations in training, on the recipe's validation images.
        hours: of training, without scoring and interruptions.
        memory_gib: peak, of the device on CUDA, of the process elsewhere.
        skipped: steps that were left out since they were not finite.
    """

    job: Job
    images: PerImage
    best: float | None
    hours: float
    memory_gib: float
    skipped: int

    @property
    def miou(self) -> float:
        """Over the pixels of all images."""
        return float(mean_iou(self.images.counts.sum(0)))


def results_of(jobs: Sequence[Job]) -> list[Result]:
    """The results of the runs that are done."""
    return [_result(job) for job in jobs if job.done]


def _result(job: Job) -> Result:
    lines = RunFolder(job.folder).lines()
    train = [line for line in lines if line["kind"] == "train"]
    network = job.recipe.eval.network
    scores = [line[f"{network}_miou"] for line in lines if line["kind"] == "eval" and line.get(f"{network}_miou")]
    return Result(
        job,
        read_per_image(job.table),
        max(scores, default=None),
        _seconds(job, train) / 3600,
        max((line["memory_gib"] for line in train), default=float("nan")),
        train[-1]["skipped_steps"] if train else 0,
    )


def _seconds(job: Job, train: Sequence[dict[str, Any]]) -> float:
    """Seconds that the logged steps took, from the images per second of each."""
    recipe, before, total = job.recipe, 0, 0.0
    for line in train:
        steps = range(before, line["step"])
        semi = sum(recipe.semi_supervised and step >= recipe.loss.warmup_steps for step in steps)
        total += recipe.train.batch * (len(steps) + semi) / max(line["images_per_second"], 1e-9)
        before = line["step"]
    return total


@dataclass(frozen=True)
class Row:
    """A method at a share of labels.

    Attributes:
        method: its text.
        labeled: the share; None for that of the recipe.
        runs: its results, by seed.
        difference: to the first method at this share, over the seeds that both have; None for the first itself.
    """

    method: str
    labeled: str | None
    runs: Sequence[Result]
    difference: Difference | None

    @property
    def scores(self) -> list[float]:
        """The mIoU of each run."""
        return [run.miou for run in self.runs]

    @property
    def mean(self) -> float:
        """Of the runs."""
        return mean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the runs; None for a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def iou(self) -> list[float]:
        """IoU per class, the mean of the runs; NaN for a class that is absent."""
        values = np.stack([iou(run.images.counts.sum(0)) for run in self.runs])
        return [float(value) for value in values.mean(0)]


def rows_of(results: Sequence[Result]) -> list[Row]:
    """A row for each share of labels and method that has results, in the order of the runs."""
    keys = list(dict.fromkeys((result.job.labeled, result.job.method.text) for result in results))
    found: list[Row] = []
    for labeled, method in keys:
        runs = [each for each in results if (each.job.labeled, each.job.method.text) == (labeled, method)]
        first = next((row for row in found if row.labeled == labeled), None)
        found.append(Row(method, labeled, runs, _difference(first.runs, runs) if first else None))
    return found


def _difference(first: Sequence[Result], second: Sequence[Result]) -> Difference | None:
    """Over the seeds that both methods have; None for none."""
    by_seed = {run.job.seed: run.images for run in first}
    pairs = [(by_seed[run.job.seed], run.images) for run in second if run.job.seed in by_seed]
    return paired_difference([one for one, _ in pairs], [other for _, other in pairs]) if pairs else None


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the numbers allow to say, and what not; in plain words."""
    told = [_sentence(row, next(first for first in rows if first.labeled == row.labeled))
            for row in rows if row.difference]  # fmt: skip
    known = [row.difference for row in rows if row.difference]
    if known:
        seeds, units = min(each.seeds for each in known), known[0].units
        unit = "group of images" if any(rows[0].runs[0].images.groups) else "image"
        where = f"Measured on {counted(units, unit)}, {counted(seeds, 'seed')}, weights of the last step."
        told.append(where + _caution(seeds))
    return told


def _sentence(row: Row, first: Row) -> str:
    gap = row.difference
    assert gap is not None
    at = f"With {row.labeled} of the labels, " if row.labeled else ""
    name, other = (f"`{each.method}`" for each in (row, first))
    if not gap.clear:
        return (
            f"{at}{name} and {other} cannot be told apart: {_points(gap.mean)} points of mIoU, and anything from "
            f"{_points(gap.low)} to {_points(gap.high)} would fit."
        )
    word = "above" if gap.mean > 0 else "below"
    low, high = sorted((abs(gap.low), abs(gap.high)))
    count = gap.ahead if gap.mean > 0 else gap.seeds - gap.ahead
    return (
        f"{at}{name} is {100 * abs(gap.mean):.1f} points of mIoU {word} {other} ({100 * LEVEL:.0f} % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), {word} in {count} of {counted(gap.seeds, 'seed')}."
    )


def _caution(seeds: int) -> str:
    if seeds == 1:
        return " One seed: the intervals are of the images alone, and another seed may turn them."
    if seeds < FEW:
        return f" {seeds} seeds are few: take intervals as somewhat too narrow."
    return ""


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # 0.0: nothing below zero is written as -0.0


def to_json(rows: Sequence[Row], failed: dict[str, str], facts: dict[str, Any]) -> dict[str, Any]:
    """All as plain values."""
    return {
        **facts,
        "rows": [
            {
                "method": row.method,
                "labeled": row.labeled,
                "mean_miou": row.mean,
                "std_miou": row.spread,
                "difference": vars(row.difference) if row.difference else None,
                "iou": dict(zip(row.runs[0].images.classes, row.iou, strict=True)),
                "runs": [
                    {
                        "seed": run.job.seed,
                        "folder": run.job.place,
                        "last_miou": run.miou,
                        "best_miou": run.best,
                        "hours": run.hours,
                        "memory_gib": run.memory_gib,
                        "skipped_steps": run.skipped,
                    }
                    for run in row.runs
                ],
            }
            for row in rows
        ],
        "sentences": sentences(rows),
        "failed": failed,
    }


def to_markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Tables of the scores and of the classes, and the sentences."""
    parts = [f"mIoU in percent of the {facts['network']}, weights of the last step, {facts['images']}."]
    for labeled in dict.fromkeys(row.labeled for row in rows):
        here = [row for row in rows if row.labeled == labeled]
        parts.append(f"### {labeled} of the labels" if labeled else "")
        parts += [_scores_table(here), _classes_table(here)]
    parts.append("\n".join(f"- {text}" for text in sentences(rows)))
    return "\n\n".join(filter(None, parts)) + "\n"


def _scores_table(rows: Sequence[Row]) -> str:
    seeds = sorted({run.job.seed for row in rows for run in row.runs})
    heads = ["method", *(f"seed {seed}" for seed in seeds), "mean", "spread", f"to `{rows[0].method}`",
             "best of validation", "hours", "GiB"]  # fmt: skip
    lines = []
    for row in rows:
        runs = {run.job.seed: run for run in row.runs}
        best = [run.best for run in row.runs if run.best is not None]
        lines.append([
            f"`{row.method}`",
            *(f"{100 * runs[seed].miou:.2f}" if seed in runs else "" for seed in seeds),
            f"{100 * row.mean:.2f}",
            "" if row.spread is None else f"{100 * row.spread:.2f}",
            _interval(row.difference),
            f"{100 * mean(best):.2f}" if best else "",
            f"{mean(run.hours for run in row.runs):.2f}",
            f"{max(run.memory_gib for run in row.runs):.2f}",
        ])  # fmt: skip
    return _table(heads, lines)


def _interval(gap: Difference | None) -> str:
    return f"{_points(gap.mean)} ({_points(gap.low)} to {_points(gap.high)})" if gap else ""


def _classes_table(rows: Sequence[Row]) -> str:
    heads = ["IoU", *(f"`{row.method}`" for row in rows)]
    columns = [row.iou for row in rows]
    lines = [
        [name, *("absent" if np.isnan(column[index]) else f"{100 * column[index]:.1f}" for column in columns)]
        for index, name in enumerate(rows[0].runs[0].images.classes)
    ]
    return _table(heads, lines)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])
