"""`farcluss medical evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farcluss.cli.common import emit_json, json_option

if TYPE_CHECKING:
    from farcluss_medical.evaluation import Evaluation, Region
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
@click.option("--labels", default=None, metavar="1,2", help="Labels to score; default: all but 0 in the ground truths.")
@click.option("--names", default=None, metavar="A,B", help="Names of --labels, in their order.")
@click.option("--region", "regions", multiple=True, metavar="NAME=1,2", help="Score labels as one class; repeatable.")
@click.option("--ignore", type=int, default=None, metavar="VALUE", help="Value of ground truths that is not scored.")
@click.option(
    "--cases",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    metavar="LIST",
    help="Score the cases of this list alone, one per line.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="MM",
    help="A surface this near counts as found by NSD.",
)
@click.option(
    "--protocol",
    type=click.Choice(["farcluss", "ssl4mis"]),
    default="farcluss",
    show_default=True,
    help="ssl4mis: voxels, pooled HD95, no penalty for misses; for comparison with published numbers.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Write metrics.csv and summary.json there.",
)
@json_option
def command(
    truths: Path,
    predictions: Path,
    labels: str | None,
    names: str | None,
    regions: tuple[str, ...],
    ignore: int | None,
    cases: Path | None,
    tolerance: float,
    protocol: "Protocol",
    output: Path | None,
    as_json: bool,
) -> None:
    """Score predicted label volumes PRED against ground truths GT: NIfTI or HDF5 files, or folders with equal names.

    Per case and class: Dice, IoU, HD95, ASSD and NSD, in mm. A missed structure costs the diagonal of the image.
    """
    classes = _classes(labels, names, regions)
    from farcluss_medical.evaluation import evaluate, pair_files
    from farcluss_medical.summary import FLATTERS, summarize

    only = None if cases is None else [line.strip() for line in cases.read_text().splitlines() if line.strip()]
    pairs, extra = pair_files(truths, predictions, only)
    if protocol == "ssl4mis":
        click.echo(FLATTERS, err=True)
    if extra:
        click.echo(f"Predictions without a ground truth, not scored: {len(extra)}, first {extra[0]}.", err=True)
    evaluation = evaluate(pairs, classes, ignore=ignore, tolerance=tolerance, protocol=protocol, progress=_progress)
    summary = summarize(evaluation, protocol, tolerance) | {"extra_predictions": extra}
    for label, cases in summary["unknown_labels"].items():
        click.echo(f"Predicted, but in no ground truth and no class: label {label} (cases: {cases}).", err=True)
    if output is not None:
        _write(output, evaluation, summary)
    if as_json:
        emit_json(summary)
    else:
        _print_table(summary)
        click.echo(summary["notice"])


def _classes(labels: str | None, names: str | None, regions: tuple[str, ...]) -> "list[Region]":
    """The classes that the options name; none means every label. Raises UsageError."""
    from farcluss_medical.evaluation import Region

    if labels is not None and regions:
        raise click.UsageError("--labels scores one label per class, --region several; give one of them.")
    if names is not None and labels is None:
        raise click.UsageError("--names are the names of --labels; give both.")
    if regions:
        classes = [Region(name.strip(), _integers("--region", part)) for name, _, part in map(_split, regions)]
    else:
        numbers = _integers("--labels", labels) if labels is not None else ()
        given = [name.strip() for name in names.split(",")] if names is not None else [str(n) for n in numbers]
        if len(given) != len(numbers):
            raise click.UsageError(f"--labels has {len(numbers)} labels, --names {len(given)} names.")
        classes = [Region(name, (number,)) for name, number in zip(given, numbers, strict=True)]
    known = [one.name for one in classes]
    if twice := next((name for name in known if known.count(name) > 1), None):
        raise click.UsageError(f"The class {twice!r} is named twice.")
    return classes


def _split(region: str) -> tuple[str, str, str]:
    parts = region.partition("=")
    if not parts[0].strip() or not parts[1]:
        raise click.UsageError(f"--region {region}: write NAME=1,2.")
    return parts


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{option}: {text!r} is no list of integers such as 1,2.") from None
    if 0 in numbers:
        raise click.UsageError(f"{option}: 0 is the background, which is not scored.")
    return numbers


def _progress(pairs: Any) -> Any:
    """The pairs, with a bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(pairs, description="Scoring", console=console, transient=True, disable=not console.is_terminal)


def _write(folder: Path, evaluation: "Evaluation", summary: dict[str, Any]) -> None:
    from farcluss.runs.atomic import write_atomically
    from farcluss_medical.summary import to_csv

    write_atomically(folder / "metrics.csv", to_csv(evaluation, summary["protocol"]["name"]).encode())
    write_atomically(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    click.echo(f"Wrote metrics.csv and summary.json to {folder}.", err=True)


def _print_table(summary: dict[str, Any]) -> None:
    """Means per class, with their intervals below them."""
    from rich.console import Console
    from rich.table import Table

    from farcluss_medical.metrics import METRICS

    protocol = summary["protocol"]
    unit = "voxels" if protocol["name"] == "ssl4mis" else "mm"
    heads = {"dice": "Dice\n%", "iou": "IoU\n%", "nsd": f"NSD %\nat {protocol['tolerance']:g} {unit}"}
    metrics = METRICS[protocol["name"]]
    table = Table("class", box=None, padding=(0, 1, 0, 0))
    for head in (*(heads.get(name, f"{name.upper()}\n{unit}") for name in metrics), "cases", *COUNTS.values()):
        table.add_column(head, justify="right", overflow="fold")  # no digit may fall to an ellipsis
    for row in summary["classes"]:
        # Eighty columns have no room for the interval of IoU, which says what that of Dice says.
        cells = (_cell(name, row[name]["mean"], row[name]["interval"] if name != "iou" else None) for name in metrics)
        counts = (str(row[key]) for key in ("cases", *COUNTS))
        table.add_row(row["class"], *cells, *counts)
    table.add_row("mean", *(_cell(name, summary["mean"][name], None) for name in metrics), str(summary["cases"]))
    Console().print(table)


def _cell(name: str, mean: float | None, interval: list[float] | None) -> str:
    """A mean, and the interval in a second line; shares as percent."""
    if mean is None:
        return "-"
    factor = 100 if name in ("dice", "iou", "nsd") else 1
    bounds = "" if interval is None else f"\n{factor * interval[0]:.1f}–{factor * interval[1]:.1f}"
    return f"{factor * mean:.2f}{bounds}"
