"""`farcluss predict`."""

from pathlib import Path

import click

from farcluss.cli.commands import device_option, output_option, overwrite_option, pick_device

STEPS = 1000
"""Of the progress bar, per image: a large one takes hours."""


@click.command(epilog="Example: farcluss predict runs/quickstart/weights/best.safetensors photos/ -o masks --overlay")
@click.argument("weights")
@click.argument("inputs", nargs=-1, required=True)
@output_option("predictions", folder=True, help="Where to write.")
@click.option("--overlay", is_flag=True, default=False, help="Also blend the prediction over the image.")
@click.option("--probs", is_flag=True, default=False, help="Also write probabilities; png: float16 .npy (C, H, W).")
@click.option("--entropy", is_flag=True, default=False, help="Also write normalized entropy; png: 0 black to 1 white.")
@overwrite_option
@click.option("--writer", default=None, help="Writer plugin; default: that of the weights' recipe.")
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set an option of the writer; repeatable."
)
@device_option
def command(
    weights: str,
    inputs: tuple[str, ...],
    output: Path,
    overlay: bool,
    probs: bool,
    entropy: bool,
    overwrite: bool,
    writer: str | None,
    settings: tuple[str, ...],
    device: str,
) -> None:
    """Predict INPUTS (images, folders or globs) with WEIGHTS and write what the recipe's writer makes.

    For pictures that is an index PNG with the classes' palette. An image that cannot be read is reported at the end,
    with exit code 1; the others are predicted all the same.
    """
    from farcluss.inference.weights import load
    from farcluss.jobs.prediction import make_folder, plan, predict_files, refuse_existing
    from farcluss.plugins import registry
    from farcluss.recipes.model import Part
    from farcluss.recipes.reading import merge_settings

    model = load(weights, pick_device(device))
    usual = Part.model_validate(model.card.recipe.get("eval", {}).get("writer") or "png")
    options = usual.options if writer in (None, usual.name) else {}
    options |= {name: True for name, wanted in (("overlay", overlay), ("probs", probs), ("entropy", entropy)) if wanted}
    options |= merge_settings(settings)
    built = registry.build("writer", writer or usual.name, options, model.card)
    jobs = plan(inputs, output, built)
    if not overwrite:
        refuse_existing(jobs, built)
    make_folder(output)
    errors, remarks = [], []
    with click.progressbar(length=STEPS * len(jobs), label="predicting") as bar:
        for outcome in predict_files(model, jobs, built):
            bar.update(round(STEPS * outcome.done) - bar.pos)
            errors += [outcome.error] if outcome.error else []
            remarks += [outcome.remark] if outcome.remark else []
    click.echo(f"{len(jobs) - len(errors)} of {len(jobs)} images predicted, written to {output}/")
    for remark in remarks:
        click.echo(f"Note: {remark}", err=True)
    for error in errors:
        click.echo(f"Error: {error}", err=True)
    if errors:
        raise click.exceptions.Exit(1)
