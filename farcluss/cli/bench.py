"""`farcluss bench`."""

import os
from typing import Any

import click

from farcluss.cli.commands import GivenRecipe, emit_json, json_option, print_table, recipe_options

MEANINGS = {
    "wait": "for samples from the loader",
    "copy": "of the batch to the device",
    "augment": "stage: strong views",
    "teacher": "forward without gradient",
    "pseudo_label": "stage",
    "weight": "stage",
    "rebalance": "stage",
    "first_pass": "extra forward of all micro-batches",
    "student": "forward",
    "losses": "supervised and unsupervised",
    "contrast": "stage",
    "backward": "of student and losses",
    "optimizer": "checks, clipping, update",
    "ema": "update of the teacher",
    "other": "everything else",
}


@click.command(epilog="Example: farcluss bench recipes/camvid_1_8.toml --set data.root=/data/camvid")
@recipe_options
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Timed steps.")
@json_option
def command(recipe: GivenRecipe, steps: int, as_json: bool) -> None:
    """Time the data loading and training step of RECIPE on this machine, and suggest changes.

    It trains a network from scratch for a few steps and writes nothing. For several devices, start it with `accelerate
    launch`, like `run`.
    """
    loaded = recipe.read()
    from farcluss.jobs.benching import advise, bench
    from farcluss.learning.build import build_parts

    figures = bench(build_parts(loaded), steps)
    if os.environ.get("RANK", "0") != "0":
        return
    advice = advise(figures, loaded)
    if as_json:
        emit_json({**figures.to_json(), "advice": advice})
    else:
        _report(figures, advice)


def _report(figures: Any, advice: list[str]) -> None:
    values = figures.to_json()
    speed = f"{figures.step:.3f} s per step, {values['images_per_second']:.1f} images/s"
    click.echo(f"{figures.device} x {figures.processes}: {speed}, {figures.memory_gib:.2f} GiB peak")
    total = sum(figures.parts.values())
    rows = [
        (name.replace("_", " "), MEANINGS[name], f"{1000 * seconds:.1f}", f"{100 * seconds / total:.1f}")
        for name, seconds in figures.parts.items()
    ]
    heads = ("part of a step", "", "ms", "%")
    print_table(heads, [*rows, ("sum", "parts timed separately", f"{1000 * total:.1f}", "100.0")], numbers=heads[2:])
    loads = " and ".join(f"{1000 * seconds:.1f} ms per {kind} image" for kind, seconds in figures.load.items())
    click.echo(f"loading takes {loads} on one core: data.workers is {figures.workers}, needed {figures.needed_workers}")
    for sentence in advice:
        click.echo(f"-> {sentence}")
