"""`farcluss run`."""

from pathlib import Path

import click

from farcluss.cli.commands import GivenRecipe, output_option, recipe_options
from farcluss.training.startup import collector_at_rest


@click.command(epilog="Example: farcluss run quickstart --with fixmatch --set train.seed=1 --output runs/fixmatch-1")
@recipe_options
@output_option(folder=True, help="Run directory; default runs/NAME.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="newest",
    default=None,
    metavar="[CHECKPOINT|auto]",
    help="Go on from a checkpoint; without one, from the run's newest whole one; auto: from that, or start.",
)
@click.option(
    "--allow-changes", is_flag=True, default=False, help="Resume with a recipe that differs in what affects training."
)
@click.option("--overwrite", is_flag=True, default=False, help="Replace a run that is in the run directory already.")
def command(recipe: GivenRecipe, output: Path | None, resume: str | None, allow_changes: bool, overwrite: bool) -> None:
    """Train RECIPE, a file or the name of a shipped one.

    Start it by `accelerate launch -m farcluss run ...` for several devices. SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end it
    after the step and a checkpoint, with exit code 128 + signal.
    """
    if resume is not None and overwrite:
        raise click.UsageError("--resume goes on with a run, --overwrite replaces it: give one of them.")
    loaded = recipe.read()
    with collector_at_rest():
        from farcluss.training.engine import train

    train(loaded, output, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
