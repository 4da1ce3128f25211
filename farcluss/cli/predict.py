"""`farcluss predict`."""

from pathlib import Path

import click

from farcluss.cli.common import device_option


@click.command(epilog="Example: farcluss predict runs/quickstart/weights/best.safetensors photos/ -o masks --overlay")
@click.argument("weights")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--output", "-o", default="predictions", show_default=True, metavar="DIR", help="Where to write.")
@click.option("--overlay", is_flag=True, default=False, help="Also blend the prediction over the image.")
@click.option("--probs", is_flag=True, default=False, help="Also write probabilities, float16 .npy (C, H, W).")
@click.option("--entropy", is_flag=True, default=False, help="Also write normalized entropy, 0 black to 1 white.")
@click.option("--overwrite", is_flag=True, default=False, help="Replace files that exist.")
@click.option("--writer", default="png", show_default=True, help="Writer plugin.")
@device_option
def command(
    weights: str,
    inputs: tuple[str, ...],
    output: str,
    overlay: bool,
    probs: bool,
    entropy: bool,
    overwrite: bool,
    writer: str,
    device: str,
) -> None:
    """Predict INPUTS (images, folders or globs) with WEIGHTS and write index PNGs with the classes' palette.

    An image that cannot be read is reported at the end, with exit code 1; the others are predicted all the same.
    """
    from farcluss import plugins
    from farcluss.cli.common import pick_device
    from farcluss.prediction import make_folder, plan, predict_files, refuse_existing
    from farcluss.weights import load

    model = load(weights, pick_device(device))
    options = {"overlay": overlay, "probs": probs, "entropy": entropy}
    built = plugins.build("writer", writer, options, model.card.palette)
    jobs = plan(inputs, Path(output), built)
    if not overwrite:
        refuse_existing(jobs, built)
    make_folder(Path(output))
    failed = []
    with click.progressbar(predict_files(model, jobs, built), length=len(jobs), label="predicting") as outcomes:
        for outcome in outcomes:
            if outcome.error:
                failed.append(outcome)
    click.echo(f"{len(jobs) - len(failed)} of {len(jobs)} images predicted, written to {output}/")
    for outcome in failed:
        click.echo(f"Error: {outcome.error}", err=True)
    if failed:
        raise click.exceptions.Exit(1)
