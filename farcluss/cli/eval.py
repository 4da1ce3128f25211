"""`farcluss eval`."""

import math
from typing import Any

import click

from farcluss.cli.common import device_option, emit_json, json_option, pick_device


@click.command(
    epilog="Example: farcluss eval runs/camvid_1_8/weights/best.safetensors --data /data/camvid --split test"
)
@click.argument("weights")
@click.option("--data", "root", default=None, metavar="DIR", help="Root of the data set; default: the recipe's.")
@click.option(
    "--split", default=None, metavar="SPLIT|LIST", help="val, test or a list file; default: the recipe's val."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a key of [data] or [eval]; repeatable."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that decode images."
)
@device_option
@json_option
def command(
    weights: str,
    root: str | None,
    split: str | None,
    settings: tuple[str, ...],
    workers: int,
    device: str,
    as_json: bool,
) -> None:
    """Evaluate WEIGHTS: IoU, accuracy and Dice per class, mIoU and pixel accuracy, over the pixels of all images."""
    from farcluss.jobs.scoring import score_file
    from farcluss.recipes.reading import merge_settings

    keys = merge_settings(settings)
    if unknown := sorted(set(keys) - {"data", "eval"}):
        raise click.UsageError(f"--set {unknown[0]}: only keys of [data] and [eval] affect the scores.")
    if root is not None:
        keys["data"] = {"pack": None} | keys.get("data", {}) | {"root": root}  # read these files, not the pack
    if split is not None:
        keys.setdefault("data", {})["val"] = split
    scores = score_file(weights, keys, device=pick_device(device), workers=workers)
    if as_json:
        emit_json(scores.to_json())
    else:
        _table(scores.to_json())


def _table(scores: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def percent(value: float | None) -> str:
        return "absent" if value is None or math.isnan(value) else f"{100 * value:.2f}"

    table = Table("class", "IoU %", "accuracy %", "Dice %", "pixels")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in scores["classes"]:
        table.add_row(row["class"], *(percent(row[key]) for key in ("iou", "accuracy", "dice")), f"{row['pixels']:,}")
    Console().print(table)
    click.echo(f"mIoU {percent(scores['miou'])} %   pixel accuracy {percent(scores['pixel_accuracy'])} %")
