"""`farcluss medical evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farcluss.cli.commands import emit, json_option, output_option, print_table, tracked, write_results
from farcluss_medical.cli.classes import class_options

if TYPE_CHECKING:
    from farcluss_medical.evaluation import Region
    from farcluss_medical.metrics import Protocol

EXAMPLES = """\b
Example:
  farcluss medical evaluate labelsTs predictions
  farcluss medical evaluate labelsTs predictions --labels 1,2 --names liver,tumor -o scores
  farcluss medical evaluate labelsTs predictions --region WT=1,2,4 --region TC=1,4 --region ET=4
"""
COUNTS = {"missed": "missed", "false_positive": "false\npos.", "both_empty": "both\nempty"}


@click.command(epilog=EXAMPLES)
@click.argument("truths", metavar="GT", type=click.Path(path_type=Path, exists=True))
@click.argument("predictions", metavar="PRED", type=click.Path(path_type=Path, exists=True))
@class_options
@click.option("--ignore", type=int, default=None, metavar="VALUE", help="Ground-truth value that is not scored.")
@click.option(
    "--cases",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    metavar="LIST",
    help="Score only the cases in this list, one per line: names of files, or of the folders they lie in.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="MM",
    help="Distance up to which NSD counts a surface voxel as correct.",
)
@click.option(
    "--protocol",
    type=click.Choice(["farcluss", "ssl4mis"]),
    default="farcluss",
    show_default=True,
    help="ssl4mis: voxels, pooled HD95, no penalty for misses; for comparison with published numbers.",
)
@output_option(folder=True, help="Write metrics.csv and summary.json there.")
@json_option
def command(
    truths: Path,
    predictions: Path,
    classes: "list[Region]",
    ignore: int | None,
    cases: Path | None,
    tolerance: float,
    protocol: "Protocol",
    output: Path | None,
    as_json: bool,
) -> None:
    """Score predicted label volumes PRED against ground truths GT: NIfTI or HDF5 files, or folders with equal names.

    Per case and class: Dice, IoU, HD95, ASSD and NSD, in mm. A missed structure gets the image diagonal as distance.
    """
    from farcluss_medical.evaluation import evaluate, pair_files, read_cases
    from farcluss_medical.summary import FLATTERS, summarize, to_csv

    only = None if cases is None else read_cases(cases)
    pairs, extra = pair_files(truths, predictions, only)
    if protocol == "ssl4mis":
        click.echo(FLATTERS, err=True)
    if extra:
        click.echo(f"Predictions without a ground truth, not scored: {len(extra)}, first {extra[0]}.", err=True)
    evaluation = evaluate(pairs, classes, ignore=ignore, tolerance=tolerance, protocol=protocol, progress=tracked)
    summary = summarize(evaluation, protocol, tolerance) | {"extra_predictions": extra}
    for label, cases in summary["unknown_labels"].items():
        click.echo(f"Label {label} is predicted, but is in no ground truth and no class (cases: {cases}).", err=True)
    write_results(output, {"metrics.csv": to_csv(evaluation, protocol), "summary.json": summary})
    emit(summary, as_json, _print)


def _print(summary: dict[str, Any]) -> None:
    """Means and medians per class, with the intervals of the means below these."""
    from farcluss_medical.metrics import METRICS

    protocol = summary["protocol"]
    unit = "voxels" if protocol["name"] == "ssl4mis" else "mm"
    titles = {"dice": "Dice\n%", "iou": "IoU\n%", "nsd": f"NSD %\nat {protocol['tolerance']:g} {unit}"}
    metrics = METRICS[protocol["name"]]
    heads = ("class", *(titles.get(name, f"{name.upper()}\n{unit}") for name in metrics), "cases", *COUNTS.values())
    rows = []
    for row in summary["classes"]:
        # 80 columns have no room for the interval of IoU, which adds nothing to that of Dice.
        cells = (_cell(name, row[name]["mean"], row[name]["interval"] if name != "iou" else None) for name in metrics)
        rows.append((row["class"], *cells, *(str(row[key]) for key in ("cases", *COUNTS))))
        rows.append(("  median", *(_cell(name, row[name]["median"], None) for name in metrics)))
    means = (_cell(name, summary["mean"][name], None) for name in metrics)
    rows.append(("mean", *means, str(summary["cases"])))
    print_table(heads, rows, numbers=heads[1:], gap=1)
    click.echo(summary["notice"])


def _cell(name: str, mean: float | None, interval: list[float] | None) -> str:
    """A mean, and the interval in a second line; shares as percent."""
    if mean is None:
        return "-"
    factor = 100 if name in ("dice", "iou", "nsd") else 1
    bounds = "" if interval is None else f"\n{factor * interval[0]:.1f}–{factor * interval[1]:.1f}"
    return f"{factor * mean:.2f}{bounds}"
