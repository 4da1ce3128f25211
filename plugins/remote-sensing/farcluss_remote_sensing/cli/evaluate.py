"""`farcluss rs evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farcluss.cli.common import emit_json, json_option, read_recipe, recipe_options

if TYPE_CHECKING:
    from farcluss_remote_sensing.evaluation import Evaluation

EXAMPLES = """\b
Example:
  farcluss rs evaluate scenes.toml predictions --split test
  farcluss rs evaluate scenes.toml predictions --split lists/test.txt -o scores
"""
COLUMNS = {"iou": "IoU %", "f1": "F1 %", "recall": "recall %", "precision": "precision %"}
NAMES = {
    "changed_iou": "changed IoU",
    "changed_f1": "changed F1",
    "miou": "mIoU",
    "f1": "F1",
    "accuracy": "accuracy",
    "kappa": "kappa",
}


@click.command(epilog=EXAMPLES)
@recipe_options
@click.argument("predictions", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--split", default=None, metavar="SPLIT|LIST", help="val, test or a list file; default: the recipe's val."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Write scores.csv, a line per scene, and scores.json there.",
)
@json_option
def command(
    recipe: str,
    overlays: tuple[str, ...],
    settings: tuple[str, ...],
    plugins: tuple[str, ...],
    predictions: Path,
    split: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score the maps in the folder PREDICTIONS against the labels of RECIPE's scenes, on their grids.

    One confusion matrix over all pixels that count: IoU, F1, recall (producer's accuracy) and precision (user's
    accuracy) per class, mIoU, mean F1, accuracy and kappa; for change detection those of changed pixels. A map is
    called as its scene, SCENE.tif, and holds class indices; where it holds none, the pixel is wrong. Exit code 1 when a
    scene has no map.
    """
    loaded = read_recipe(recipe, overlays, settings, plugins)
    from farcluss_remote_sensing.evaluation import evaluate

    evaluation = evaluate(loaded.data, predictions, split, _progress)
    if output is not None:
        _write(output, evaluation)
    if as_json:
        emit_json(evaluation.to_json())
    else:
        _print(evaluation.to_json())
    if evaluation.missing:
        count, total = len(evaluation.missing), len(evaluation.missing) + len(evaluation.scenes)
        click.echo(f"{count} of {total} scenes have no map and are not scored: {_first(evaluation.missing)}.", err=True)
        raise click.exceptions.Exit(1)


def _first(names: Any) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _progress(names: Any) -> Any:
    """The scenes, with a bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(names, description="Scoring", console=console, transient=True, disable=not console.is_terminal)


def _write(folder: Path, evaluation: "Evaluation") -> None:
    from farcluss.runs.atomic import write_atomically
    from farcluss_remote_sensing.scores import to_csv

    write_atomically(folder / "scores.csv", to_csv(evaluation.scenes).encode())
    write_atomically(folder / "scores.json", (json.dumps(evaluation.to_json(), indent=2) + "\n").encode())
    click.echo(f"Wrote scores.csv and scores.json to {folder}.", err=True)


def _print(scores: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", box=None, padding=(0, 2, 0, 0))
    for head in (*COLUMNS.values(), "pixels"):
        table.add_column(head, justify="right")
    for row in scores["classes"]:
        table.add_row(row["class"], *(_percent(row[key], "absent") for key in COLUMNS), f"{row['pixels']:,}")
    Console().print(table)
    click.echo("   ".join(_named(scores, name) for name in NAMES if name in scores))
    if scores["unmapped"]:
        share = 100 * scores["unmapped"] / scores["pixels"]
        click.echo(
            f"{scores['unmapped']:,} of {scores['pixels']:,} pixels ({share:.2f} %) have no class in the map: wrong"
        )


def _named(scores: dict[str, Any], name: str) -> str:
    if name == "kappa":
        return f"kappa {'undefined' if scores[name] is None else format(scores[name], '.4f')}"
    return f"{NAMES[name]} {_percent(scores[name], 'undefined')}"


def _percent(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{100 * value:.2f}"
