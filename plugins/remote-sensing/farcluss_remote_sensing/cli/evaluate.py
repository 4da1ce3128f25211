"""`farcluss rs evaluate`."""

from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import (
    GivenRecipe,
    emit,
    json_option,
    output_option,
    percent,
    print_table,
    recipe_options,
    split_option,
    tracked,
    write_results,
)
from farcluss.errors import some

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
@split_option
@output_option(folder=True, help="Write scores.csv, a line per scene, and scores.json there.")
@json_option
def command(recipe: GivenRecipe, predictions: Path, split: str | None, output: Path | None, as_json: bool) -> None:
    """Score the maps in the folder PREDICTIONS against the labels of RECIPE's scenes, on their grids.

    One confusion matrix over all pixels that count: IoU, F1, recall (producer's accuracy) and precision (user's
    accuracy) per class, mIoU, mean F1, accuracy and kappa; for change detection those of changed pixels. A map is
    named like its scene, SCENE.tif, and holds the values of the labels; a pixel without a class counts as wrong. Exit
    code 1 when a scene has no map.
    """
    loaded = recipe.read()
    from farcluss_remote_sensing.evaluation import evaluate
    from farcluss_remote_sensing.scores import to_csv

    evaluation = evaluate(loaded.data, predictions, split, tracked)
    scores = evaluation.to_json()
    write_results(output, {"scores.csv": to_csv(evaluation.scenes), "scores.json": scores})
    emit(scores, as_json, _print)
    if evaluation.missing:
        count, total = len(evaluation.missing), len(evaluation.missing) + len(evaluation.scenes)
        click.echo(
            f"{count} of {total} scenes have no map and are not scored: {some(evaluation.missing, 5)}.", err=True
        )
        raise click.exceptions.Exit(1)


def _print(scores: dict[str, Any]) -> None:
    heads = ("class", *COLUMNS.values(), "pixels")
    rows = [(row["class"], *(percent(row[key]) for key in COLUMNS), f"{row['pixels']:,}") for row in scores["classes"]]
    print_table(heads, rows, numbers=heads[1:])
    click.echo("   ".join(_named(scores, name) for name in NAMES if name in scores))
    if scores["unmapped"]:
        share = 100 * scores["unmapped"] / scores["pixels"]
        click.echo(
            f"{scores['unmapped']:,} of {scores['pixels']:,} pixels ({share:.2f} %) have no class in the map "
            "and count as wrong"
        )


def _named(scores: dict[str, Any], name: str) -> str:
    if name == "kappa":
        return f"kappa {'undefined' if scores[name] is None else format(scores[name], '.4f')}"
    return f"{NAMES[name]} {percent(scores[name], 'undefined')}"
