"""`farcluss run`."""

import sys
from pathlib import Path

import click

from farcluss.cli.commands import GivenRecipe, output_option, recipe_options
from farcluss.training.startup import gc_paused


@click.command(epilog="Example: farcluss run quickstart --with fixmatch --set train.seed=1 --output runs/fixmatch-1")
@recipe_options
@output_option(folder=True, help="Run directory; default runs/NAME.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="newest",
    default=None,
    metavar="[CHECKPOINT|auto]",
    help="Resume from CHECKPOINT, by default the run's newest intact one; auto: resume if there is one, else start.",
)
@click.option(
    "--allow-changes", is_flag=True, default=False, help="Resume although keys that affect training have changed."
)
@click.option("--overwrite", is_flag=True, default=False, help="Replace the run that is already in the run directory.")
@click.option("--devices", type=click.IntRange(1), default=None, metavar="N", help="GPUs of this machine to train on.")
@click.option("--machines", type=click.IntRange(1), default=1, metavar="N", help="Machines, with as many GPUs each.")
@click.option("--machine", type=click.IntRange(0), default=0, metavar="K", help="Which of them this is, from 0.")
@click.option("--address", default="", metavar="HOST[:PORT]", help="The first machine, for several.")
def command(
    recipe: GivenRecipe,
    output: Path | None,
    resume: str | None,
    allow_changes: bool,
    overwrite: bool,
    devices: int | None,
    machines: int,
    machine: int,
    address: str,
) -> None:
    """Train RECIPE, a file or the name of a shipped one.

    On several devices with `--devices`, which starts Accelerate's launcher; or start it by hand, with its own options:
    `accelerate launch -m farcluss run ...`. On SIGTERM, SIGINT (Ctrl-C) or SIGUSR1 it finishes the step, writes a
    checkpoint and exits with code 128 + signal.
    """
    if resume is not None and overwrite:
        raise click.UsageError("--resume continues a run, --overwrite replaces it: give only one of them.")
    loaded = recipe.read()
    if devices is not None or machines > 1:
        from farcluss.jobs.launching import Place, launch, launched, without

        if not launched():
            place = Place(devices or 1, machines, machine, address)
            words = without(sys.argv[1:], ("--devices", "--machines", "--machine", "--address"))
            raise click.exceptions.Exit(launch(place, words))
    with gc_paused():
        from farcluss.training.engine import leave_group, train

    try:
        train(loaded, output, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
    finally:
        leave_group()
