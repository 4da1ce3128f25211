"""`farcluss rs stats`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import GivenRecipe, output_option, print_table, read_all, recipe_options, write_result

COLUMNS = ("mean", "std", "min", "low", "high", "max")


@click.command(epilog="Example: farcluss rs stats scenes.toml --set data.root=/data/scenes -o stats.json")
@recipe_options
@output_option("stats.json", help="File to write.")
def command(recipe: GivenRecipe, output: Path) -> None:
    """Measure each band of the training scenes of RECIPE, labeled and unlabeled: mean, deviation, percentiles.

    All valid pixels count, once each. Validation data of RECIPE is never read.
    """
    loaded = recipe.read()
    from farcluss_remote_sensing.scaling import undeclared
    from farcluss_remote_sensing.statistics import empty_bands, measure, passes, scenes_of, to_text, training_parts

    dataset = scenes_of(loaded.data)
    parts = training_parts(dataset, loaded.data)
    bands = empty_bands(dataset, parts)
    scenes = len({scene.id for scene, _ in parts})
    read_all(measure(dataset, parts, bands), f"reading {scenes} scenes", len(parts) * passes(bands))
    write_result(output, to_text(scenes, bands))
    click.echo(f"wrote {output}: {scenes} scenes, {bands[0].count:,} valid pixels")
    _print_table(bands)
    if text := undeclared([band.to_json() for band in bands]):
        click.echo(f"Warning: {text}", err=True)
    click.echo(f"For the recipe: --set data.layout.stats={output}")


def _print_table(bands: Sequence[Any]) -> None:
    facts = [band.to_json() for band in bands]
    rows = [
        (str(number), each["dtype"], *(f"{each[name]:.5g}" for name in COLUMNS)) for number, each in enumerate(facts, 1)
    ]
    print_table(("band", "type", *COLUMNS), rows, numbers=("band", *COLUMNS))
    click.echo("low and high are the percentiles 0.5 and 99.5")
