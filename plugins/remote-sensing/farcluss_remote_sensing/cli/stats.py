"""`farcluss rs stats`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from farcluss.cli.common import read_recipe, recipe_options

COLUMNS = ("mean", "std", "min", "low", "high", "max")


@click.command(epilog="Example: farcluss rs stats scenes.toml --set data.root=/data/scenes -o stats.json")
@recipe_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="stats.json",
    show_default=True,
    help="File to write.",
)
def command(
    recipe: str, overlays: tuple[str, ...], settings: tuple[str, ...], plugins: tuple[str, ...], output: Path
) -> None:
    """Measure each band of the training scenes of RECIPE, labeled and unlabeled: mean, deviation, percentiles.

    All valid pixels count, once each. What RECIPE validates on is never looked at.
    """
    loaded = read_recipe(recipe, overlays, settings, plugins)
    from farcluss.runs.atomic import write_atomically
    from farcluss_remote_sensing.statistics import empty_bands, measure, passes, scenes_of, to_text, training_parts

    dataset = scenes_of(loaded.data)
    parts = training_parts(dataset, loaded.data)
    bands = empty_bands(dataset, parts)
    scenes = len({scene.id for scene, _ in parts})
    with click.progressbar(
        measure(dataset, parts, bands), length=len(parts) * passes(bands), label=f"reading {scenes} scenes"
    ) as bar:
        for _ in bar:
            pass
    write_atomically(output, to_text(scenes, bands).encode())
    click.echo(f"wrote {output}: {scenes} scenes, {bands[0].count:,} valid pixels")
    _print_table(bands)
    click.echo(f"For the recipe: --set data.layout.stats={output}")


def _print_table(bands: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("band", justify="right")
    table.add_column("type")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for number, band in enumerate(bands, 1):
        facts = band.to_json()
        table.add_row(str(number), band.dtype, *(f"{facts[name]:.5g}" for name in COLUMNS))
    Console().print(table)
    click.echo("low and high are the percentiles 0.5 and 99.5")
