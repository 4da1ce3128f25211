"""`farcluss bench`."""

import os
from typing import Any

import click

from farcluss.cli.commands import GivenRecipe, emit_json, json_option, print_table, recipe_options

WORDS = {
    "wait": "for samples: decode, or loader processes",
    "copy": "copying the batch to the device",
    "augment": "stage: strong views",
    "teacher": "forward without gradient",
    "pseudo_label": "stage",
    "weight": "stage",
    "rebalance": "stage",
    "first_pass": "first forward of all micro-batches",
    "student": "forward",
    "losses": "supervised and unsupervised",
    "contrast": "stage",
    "backward": "of student and losses",
    "optimizer": "checks, clipping, update",
    "ema": "update of the teacher",
    "other": "all the rest",
}


@click.command(epilog="Example: farcluss bench recipes/camvid_1_8.toml --set data.root=/data/camvid")
@recipe_options
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Timed steps.")
@json_option
def command(recipe: GivenRecipe, steps: int, as_json: bool) -> None:
    """Measure loader and step of RECIPE on this machine: where the time goes, and what to change.

    It trains a network from scratch for a moment and writes nothing. Start it like `run`, by `accelerate launch` for
    several devices.
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
    facts = figures.to_json()
    speed = f"{figures.step:.3f} s per step, {facts['images_per_second']:.1f} images/s"
    click.echo(f"{figures.device} x {figures.processes}: {speed}, {figures.memory_gib:.2f} GiB at most")
    total = sum(figures.parts.values())
    rows = [
        (name.replace("_", " "), WORDS[name], f"{1000 * seconds:.1f}", f"{100 * seconds / total:.1f}")
        for name, seconds in figures.parts.items()
    ]
    heads = ("part of a step", "", "ms", "%")
    print_table(heads, [*rows, ("sum", "timed part by part", f"{1000 * total:.1f}", "100.0")], numbers=heads[2:])
    loads = " and ".join(f"{1000 * seconds:.1f} ms per {kind} image" for kind, seconds in figures.load.items())
    click.echo(f"loading takes a core {loads}: data.workers is {figures.workers}, {figures.needed_workers} keep up")
    for sentence in advice:
        click.echo(f"-> {sentence}")
