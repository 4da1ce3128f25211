"""The sections of a report: charts, tables and words of what runs have logged and of what their weights do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farcluss.inference.calibration import Calibration
from farcluss.inference.evaluation import Scores
from farcluss.recipes.model import Recipe, flat
from farcluss.recipes.training import Train
from farcluss.reports import page

LOSSES = ("total", "supervised", "unsupervised", "contrastive")
PLAIN = {
    "pseudo_label_accuracy": "pseudo-label accuracy",
    "mean_weight": "mean weight",
    "high_entropy": "unsure pixels",
}
"""What is told of the pseudo-labels, as a share of the pixels."""
PROBE = {"accuracy": "right", "mean_confidence": "sure"}
"""And of the labeled images that are held back."""


@dataclass(frozen=True)
class Run:
    """What the files of a run say.

    Attributes:
        folder: the run directory.
        group: what it is a run of, with its seed left out.
        recipe: as it was trained.
        lines: of metrics.jsonl.
        environment: versions, device and lists.
        warnings: what the run warned of.
    """

    folder: Path
    group: str
    recipe: Recipe
    lines: list[dict[str, Any]]
    environment: dict[str, Any]
    warnings: list[str]

    def curve(self, kind: str, key: str) -> tuple[list[int], list[Any]]:
        """Steps and values of a figure of metrics.jsonl, where it has one."""
        found = [(line["step"], line[key]) for line in self.lines if line["kind"] == kind and line.get(key) is not None]
        return [step for step, _ in found], [value for _, value in found]

    @property
    def scores(self) -> dict[str, Any]:
        """Of the last evaluation of the scored network; empty before the first one."""
        found = [line["scores"] for line in self.lines if line["kind"] == "eval" and "scores" in line]
        return dict(found[-1][self.recipe.eval.network]) if found else {}


def by_group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ by their seed alone, by name of the group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups


def _lines(runs: Sequence[Run], kind: str, keys: Mapping[str, str]) -> dict[str, list[Any]]:
    """Curves of some figures, by group and name; those without a value are left out."""
    several = len(by_group(runs)) > 1
    found: dict[str, list[Any]] = {}
    for group, own in by_group(runs).items():
        for key, name in keys.items():
            curves = [curve for curve in (run.curve(kind, key) for run in own) if curve[0]]
            if curves:
                found[f"{group}: {name}" if several and len(keys) > 1 else group if several else name] = curves
    return found


def curves_section(runs: Sequence[Run]) -> str:
    """Scores and losses over the steps."""
    network = runs[0].recipe.eval.network
    networks = {f"{each}_miou": each for each in ([network] if len(runs) > 1 else ["teacher", "student"])}
    losses = {"total": "total"} if len(runs) > 1 else {name: name for name in LOSSES}
    return page.grid(
        [
            _lines_chart(_lines(runs, "eval", networks), "mIoU", True),
            _lines_chart(_lines(runs, "train", losses), "loss", False),
        ]
    )


def _lines_chart(groups: dict[str, list[Any]], label: str, in_percent: bool) -> str:
    from farcluss.reports.charts import curves

    if not groups:
        return ""
    shown = percent if in_percent else "{:.4f}".format
    ends = {name: [ys[-1] for _, ys in group] for name, group in groups.items()}
    words = "; ".join(f"{name} ends at {shown(float(np.mean(values)))}" for name, values in ends.items())
    spread = " The band is the range of the seeds." if any(len(group) > 1 for group in groups.values()) else ""
    rows = [
        [name, str(step), shown(float(np.mean([dict(zip(*curve, strict=True)).get(step, np.nan) for curve in group])))]
        for name, group in groups.items()
        for step in _few(group[0][0])
    ]
    table = page.table(("line", "step", label), rows, f"Numbers of {label}")
    return page.chart(curves(groups, label, percent=in_percent), f"{label} over the steps: {words}.",
                      f"{label} over the steps.{spread}", table)  # fmt: skip


def _few(steps: Sequence[int], most: int = 12) -> list[int]:
    """Some of the steps, evenly chosen, with the first and the last."""
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round()
    return [steps[int(place)] for place in np.unique(places)]


def pseudo_label_section(runs: Sequence[Run]) -> str:
    """How right and how sure the pseudo-labels are over the steps, how much of them counts, and which classes."""
    parts = []
    for kind, keys, label in [("probe", PROBE, "held-back images"), *(("train", {k: n}, n) for k, n in PLAIN.items())]:
        if groups := _lines(runs, kind, keys):
            parts.append(_lines_chart(groups, label, True))
    return page.grid([*parts, *(_classes_over_time(runs[0]) if len(runs) == 1 else [])])


def _classes_over_time(run: Run) -> list[str]:
    """Shares of the classes among the pseudo-labels, and the weights that the method gives them."""
    from farcluss.reports.charts import over_time

    parts = []
    names = [row["class"] for row in run.scores.get("classes", ())]
    for key, label in (("histogram", "share of the pseudo-labels"), ("class_weights", "class weight")):
        steps, values = run.curve("train", key)
        if not steps or not names or len(values[0]) != len(names):
            continue
        rows = np.array(values, float).T
        last = ", ".join(f"{name} {row[-1]:.3g}" for name, row in zip(names, rows, strict=True))
        table = page.table(("class", "at the end"), [[n, f"{row[-1]:.4g}"] for n, row in zip(names, rows, strict=True)],
                           label)  # fmt: skip
        parts.append(page.chart(over_time(steps, rows, names, label), f"{label}, at the end: {last}.",
                                f"{label} over the steps.", table))  # fmt: skip
    return parts


def class_section(scores: Scores, where: str) -> str:
    """IoU per class, and which classes are mistaken for which."""
    from farcluss.reports.charts import matrix, shares

    pixels = scores.confusion.sum(1)
    total = max(int(pixels.sum()), 1)
    pairs = dict(zip(scores.classes, zip(pixels / total, scores.iou, strict=True), strict=True))
    rows = [
        [name, percent(share), percent(value), percent(recall)]
        for (name, (share, value)), recall in zip(pairs.items(), scores.accuracy, strict=True)
    ]
    known = {name: value for name, (_, value) in pairs.items() if not np.isnan(value)}
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    words = f"from {low}, {percent(known[low])}, to {high}, {percent(known[high])}"
    table = page.table(("class", "share of the pixels", "IoU", "accuracy"), rows, "Scores per class")
    mixed = scores.confusion - np.diag(np.diag(scores.confusion))
    true, taken = np.unravel_index(mixed.argmax(), mixed.shape)
    most = f"Most mistaken: {scores.classes[true]} for {scores.classes[taken]}."
    return page.grid(
        [
            page.chart(shares({"": pairs}), f"IoU per class against its share of the pixels, {words}.",
                       f"IoU per class against its share of the pixels, {where}.", table),
            page.chart(matrix(scores.confusion, scores.classes), f"Confusion matrix. {most}",
                       f"Of each true class, the percent that is predicted as each. {most}"),
        ]
    )  # fmt: skip


def uncertainty_section(trust: Calibration, where: str) -> str:
    """Whether confidence is accuracy, and whether uncertainty finds the errors."""
    from farcluss.reports.charts import reliability, risk_coverage

    gap = "more" if trust.mean_confidence > trust.accuracy else "less"
    words = (
        f"Confidence {percent(trust.mean_confidence)} on average, {percent(trust.accuracy)} are right: {gap} sure "
        f"than right. Expected calibration error {percent(trust.ece)}."
    )
    found = (
        f"Wrong are {percent(1 - trust.accuracy)} of all pixels, {percent(trust.risk(0.9))} of the surest 90 %, "
        f"{percent(trust.risk(0.8))} of the surest 80 %. AUROC {percent(trust.auroc)}: 50 % would be chance."
    )
    return page.grid(
        [
            page.chart(reliability(trust.confidence), f"Reliability diagram. {words}", f"{words} ({where})"),
            page.chart(risk_coverage({"uncertainty": trust.risk_coverage}), f"Risk against coverage. {found}",
                       f"Does the uncertainty find the errors? {found}"),
        ]
    )  # fmt: skip


def shares_section(runs: Sequence[Run]) -> str:
    """IoU per class of several methods."""
    from farcluss.reports.charts import shares

    points: dict[str, dict[str, tuple[float, float]]] = {}
    rows = []
    for group, own in by_group(runs).items():
        tables = [run.scores["classes"] for run in own if run.scores]
        if not tables:
            continue
        total = max(sum(row["pixels"] for row in tables[0]), 1)
        points[group] = {}
        for each in zip(*tables, strict=True):
            values = [np.nan if row["iou"] is None else row["iou"] for row in each]
            points[group][each[0]["class"]] = (each[0]["pixels"] / total, float(np.mean(values)))
            rows.append([group, each[0]["class"], percent(points[group][each[0]["class"]][1])])
    if not points:
        return ""
    caption = "IoU per class against its share of the pixels, mean of the runs, last validation."
    return page.chart(shares(points), caption, caption, page.table(("method", "class", "IoU"), rows, caption))


def scores_table(facts: dict[str, Any]) -> str:
    """The rows of a comparison's results.json."""
    rows = []
    for row in facts["rows"]:
        gap = row["difference"]
        rows.append([
            " ".join(filter(None, [row["method"], row["labeled"]])),
            ", ".join(percent(run["last_miou"]) for run in row["runs"]),
            percent(row["mean_miou"]),
            "" if row["std_miou"] is None else f"{100 * row['std_miou']:.2f}",
            f"{100 * gap['mean']:+.2f} ({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f})" if gap else "",
        ])  # fmt: skip
    heads = ("method", "mIoU of the runs", "mean", "spread", "to the first (95 %)")
    return page.table(heads, rows, f"Scores on {facts['split']}")


def settings(run: Run) -> str:
    """The keys of the recipe that are not at their default."""
    default, own = flat(Recipe(train=Train(steps=1))), flat(run.recipe)
    rows = [[key, str(value)] for key, value in own.items() if default.get(key) != value]
    return page.table(("key", "value"), rows, "Recipe: what is not the default", texts=True)


def differences(runs: Sequence[Run]) -> str:
    """The keys in which the recipes differ, besides the seed."""
    own = {group: flat(each[0].recipe) for group, each in by_group(runs).items()}
    keys = sorted({key for table in own.values() for key in table} - {"name", "train.seed"})
    rows = [[key, *values] for key in keys
            if len(set(values := [str(table.get(key, "")) for table in own.values()])) > 1]  # fmt: skip
    return page.table(("key", *own), rows, "Recipes: what differs", texts=True) if rows else ""


def environment(run: Run) -> str:
    """Versions, device and lists of a run."""
    rows = [[key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else
             " ".join(map(str, value)) if isinstance(value, list) else str(value)]
            for key, value in run.environment.items()]  # fmt: skip
    return page.table(("what", "value"), rows, "Environment", texts=True) if rows else ""


def percent(share: float | None) -> str:
    """A share with two digits."""
    return "none" if share is None or np.isnan(share) else f"{100 * share:.2f} %"
