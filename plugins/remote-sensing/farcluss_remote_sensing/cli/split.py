"""`farcluss rs split`."""

from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import GivenRecipe, output_option, recipe_options, write_result
from farcluss.errors import shown

EXAMPLES = """\b
Example:
  farcluss rs split scenes.toml --set data.root=/data/scenes -o splits
  farcluss rs split scenes.toml --by block --block-size 1024 --buffer 128 --labeled 0.125 -o splits
"""
SHARE = click.FloatRange(0, 1, max_open=True)


@click.command(epilog=EXAMPLES)
@recipe_options
@output_option("splits", folder=True, help="Folder for the lists.")
@click.option(
    "--by",
    type=click.Choice(["scene", "block"]),
    default="scene",
    show_default=True,
    help="scene: split by whole scenes, keeping groups together; block: split labeled scenes into blocks.",
)
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="PIXELS",
    help="Largest side of a block.",
)
@click.option(
    "--buffer",
    type=click.IntRange(min=0),
    default=128,
    show_default=True,
    metavar="PIXELS",
    help="Smallest distance between training and held-out blocks.",
)
@click.option("--val", type=SHARE, default=0.2, show_default=True, help="Share that is held out for validation.")
@click.option("--test", type=SHARE, default=0.0, show_default=True, help="Share that is held out for tests.")
@click.option(
    "--labeled",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.125,
    show_default=True,
    help="Share of the rest whose labels are used.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random split.")
def command(
    recipe: GivenRecipe,
    output: Path,
    by: str,
    block_size: int,
    buffer: int,
    val: float,
    test: float,
    labeled: float,
    seed: int,
) -> None:
    """Split the training scenes of RECIPE into lists for data.labeled, data.unlabeled and data.val, and for tests.

    Every class is among the labels where possible. The same seed gives the same lists; which scenes are held out
    does not depend on --labeled. Other lists in DIR stay as they are.
    """
    loaded = recipe.read()
    from farcluss_remote_sensing.splitting import Shares, by_block, by_scene, undivided
    from farcluss_remote_sensing.statistics import scenes_of

    dataset, shares = scenes_of(loaded.data), Shares(val, test, labeled)
    if by == "scene":
        division = by_scene(dataset, shares, seed)
    else:
        division = by_block(dataset, shares, seed, block_size, buffer)
    for name, lines in division.sets.items():
        if lines:
            write_result(output / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    _report(division, output, by)
    small = undivided(dataset, block_size) if by == "block" else ""
    for text in [*([small] if small else []), *dataset.oddities(dataset.items("train"))]:
        click.echo(shown(f"Warning: {text}"), err=True)


def _report(division: Any, output: Path, by: str) -> None:
    for name, lines in division.sets.items():
        click.echo(f"{name:9}  {len(lines)}")
    if division.lost:
        click.echo(f"The buffer costs {100 * division.lost:.1f} % of the pixels of all blocks.")
    if left_out := division.left_out:
        why = "too little is left of them" if by == "block" else "of a held-out group, but without a label"
        click.echo(f"Left out, {why}: {len(left_out)}, first {left_out[0]}.")
    click.echo("For the recipe:")
    for name in ("labeled", "unlabeled", "val"):
        if division.sets[name]:
            click.echo(f"  --set data.{name}={output / f'{name}.txt'}")
        elif name == "unlabeled":
            click.echo("  --set data.unlabeled=none")
    if division.sets["test"]:
        click.echo(f"To score the final weights: --set data.val={output / 'test.txt'}")
