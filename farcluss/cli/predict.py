"""`farcluss predict`."""

from pathlib import Path

import click

from farcluss.cli.commands import (
    device_option,
    echo_errors,
    output_option,
    overwrite_option,
    pick_device,
    progress,
    raise_if_debugging,
)
from farcluss.errors import failure, shown


@click.command(epilog="Example: farcluss predict runs/quickstart/weights/best.safetensors photos/ -o masks --overlay")
@click.argument("weights")
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "--also",
    multiple=True,
    metavar="WEIGHTS",
    help="Average the probabilities with those of another weights file; repeatable.",
)
@output_option("predictions", folder=True, help="Output folder.")
@click.option("--overlay", is_flag=True, default=False, help="Also blend the prediction over the image.")
@click.option("--probs", is_flag=True, default=False, help="Also write probabilities; png: float16 .npy (C, H, W).")
@click.option("--entropy", is_flag=True, default=False, help="Also write normalized entropy; png: 0 black to 1 white.")
@overwrite_option
@click.option(
    "--writer",
    "--to",
    default=None,
    help="Writer plugin, such as a draft for an annotation tool: coco-json, labelme, yolo, label-studio, cvat-xml; "
    "default: the one of the weights file's recipe.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set an option of the writer; repeatable."
)
@device_option
def command(
    weights: str,
    inputs: tuple[str, ...],
    also: tuple[str, ...],
    output: Path,
    overlay: bool,
    probs: bool,
    entropy: bool,
    overwrite: bool,
    writer: str | None,
    settings: tuple[str, ...],
    device: str,
) -> None:
    """Predict INPUTS (images, folders or globs) with WEIGHTS, written by the writer of the recipe.

    For pictures it writes an index PNG with the classes' palette. An image that cannot be read does not stop the
    others; it is reported at the end, with exit code 1. What a folder holds besides is counted and named. Writers of
    plugins may take more, such as tables of scenes.
    """
    from farcluss.inference.ensemble import load_together, members
    from farcluss.jobs.prediction import (
        finish,
        make_folder,
        oddities,
        plan,
        predict_files,
        refuse_existing,
        refuse_unlike,
    )
    from farcluss.plugins import registry
    from farcluss.recipes.reading import merge_settings
    from farcluss.recipes.sections import Part

    model = load_together((weights, *also), pick_device(device))
    default = Part.model_validate(model.card.recipe.get("eval", {}).get("writer") or "png")
    options = default.options if writer in (None, default.name) else {}
    options |= {name: True for name, wanted in (("overlay", overlay), ("probs", probs), ("entropy", entropy)) if wanted}
    options |= merge_settings(settings)
    kind = writer or default.name
    built = registry.build("writer", kind, options, model.card)
    cards = zip(also, members(model)[1:], strict=True)
    refuse_unlike(built, {path: registry.build("writer", kind, options, one.card) for path, one in cards})
    jobs, account = plan(inputs, output, built)
    if not overwrite:
        refuse_existing(jobs, built, output)
    make_folder(output)
    for line in [*account.lines(), *oddities(jobs, built)]:
        click.echo(shown(f"Note: {line}"), err=True)
    errors, notes = [], []
    with progress("predicting", len(jobs)) as advance:
        for outcome in predict_files(model, jobs, built):
            advance(outcome.done)
            if outcome.error is not None:
                raise_if_debugging(outcome.error)
                errors.append((outcome.image, failure(outcome.image, outcome.error)))
            notes += [outcome.note] if outcome.note else []
    finish(built, output)
    others = f"; {len(account.passed)} entries not used, see above" if account.passed else ""
    click.echo(f"{len(jobs) - len(errors)} of {len(jobs)} images predicted, written to {output}/{others}")
    for note in notes:
        click.echo(shown(f"Note: {note}"), err=True)
    echo_errors(errors)
    if errors or account.incomplete:
        raise click.exceptions.Exit(1)
