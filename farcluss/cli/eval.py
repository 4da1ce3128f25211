"""`farcluss eval`."""

from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import (
    device_option,
    echo_errors,
    emit,
    json_option,
    percent,
    pick_device,
    print_table,
    raise_if_debugging,
    split_option,
    write_result,
)
from farcluss.errors import counted


@click.command(
    epilog="Example: farcluss eval runs/camvid_1_8/weights/best.safetensors --data /data/camvid --split test"
)
@click.argument("weights")
@click.option("--data", "root", default=None, metavar="DIR", help="Root of the data set; default: the recipe's.")
@split_option
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a key of [data] or [eval]; repeatable."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that decode images."
)
@click.option(
    "--per-image",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE.csv",
    help="Also write the scores and pixel counts of each image.",
)
@click.option(
    "--calibration",
    is_flag=True,
    default=False,
    help="Also tell how far the probabilities can be trusted, and whether uncertainty finds the errors.",
)
@device_option
@json_option
def command(
    weights: str,
    root: str | None,
    split: str | None,
    settings: tuple[str, ...],
    workers: int,
    per_image: Path | None,
    calibration: bool,
    device: str,
    as_json: bool,
) -> None:
    """Evaluate WEIGHTS: IoU, accuracy and Dice per class, mIoU and pixel accuracy, over the pixels of all images.

    An image that fails is reported at the end, with exit code 1; the others are scored all the same.
    """
    from farcluss.jobs.scoring import score_file
    from farcluss.recipes.reading import merge_settings

    keys = merge_settings(settings)
    if unknown := sorted(set(keys) - {"data", "eval"}):
        raise click.UsageError(f"--set {unknown[0]}: only keys of [data] and [eval] affect the scores.")
    for section, table in keys.items():
        if not isinstance(table, dict):
            raise click.UsageError(f"--set {section} is a table: set a key of it, such as data.root or eval.flip.")
    if root is not None:
        keys["data"] = {"pack": None} | keys.get("data", {}) | {"root": root}  # read these files, not the pack
    if split is not None:
        keys.setdefault("data", {})["val"] = split
    evaluation = score_file(
        weights,
        keys,
        device=pick_device(device),
        workers=workers,
        per_image=per_image is not None,
        calibration=calibration,
    )
    if per_image is not None and evaluation.per_image is not None:
        write_result(per_image, evaluation.per_image.to_csv())
    for _, error in evaluation.failed:
        raise_if_debugging(error)
    facts = evaluation.to_json()
    emit(facts, as_json, _print)
    if evaluation.known:
        click.echo(
            f"Warning: the run has learned from {evaluation.known:,} of these {counted(evaluation.images, 'image')}, "
            "so the scores are too good.",
            err=True,
        )
    echo_errors((each["image"], each["error"]) for each in facts["failed"])
    if evaluation.failed:
        raise click.exceptions.Exit(1)


def _print(scores: dict[str, Any]) -> None:
    heads = ("class", "IoU %", "accuracy %", "Dice %", "pixels")
    rows = [
        (row["class"], *(percent(row[key]) for key in ("iou", "accuracy", "dice")), f"{row['pixels']:,}")
        for row in scores["classes"]
    ]
    print_table(heads, rows, numbers=heads[1:])
    if scores["failed"]:
        total = scores["images"] + len(scores["failed"])
        click.echo(f"{scores['images']} of {counted(total, 'image')} scored; the others failed, see below")
    click.echo(f"mIoU {percent(scores['miou'])} %   pixel accuracy {percent(scores['pixel_accuracy'])} %")
    if trust := scores.get("calibration"):
        click.echo(
            f"confidence {percent(trust['mean_confidence'])} % on average, {percent(trust['accuracy'])} % are right; "
            f"expected calibration error {percent(trust['ece'])} %\n"
            f"uncertainty finds errors with AUROC {percent(trust['auroc_of_errors'], 'none')} %; wrong are "
            f"{percent(1 - trust['accuracy'])} % of all pixels, {percent(trust['error_of_surest_90'])} % of the surest "
            f"90 %, {percent(trust['error_of_surest_80'])} % of the surest 80 %"
        )
