"""`farcluss init`."""

import sys
from functools import partial
from pathlib import Path

import click

from farcluss.cli.commands import output_option, tracked
from farcluss.errors import RecipeError, RunError, shown


@click.command(epilog="Example: farcluss init photos/ && farcluss run photos.toml")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_option(folder=True, help="Folder of the recipe; default: the working directory.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a key of the recipe, e.g. train.steps=500."
)
@click.option("--yes", is_flag=True, default=False, help="Never ask.")
def command(source: Path, output: Path | None, settings: tuple[str, ...], yes: bool) -> None:
    """Look at the folder SOURCE and write a recipe for it, which passes `farcluss check`.

    SOURCE holds images, some with a mask of the same name, or an export of an annotation tool: COCO, labelme, YOLO,
    CVAT, Label Studio, Roboflow, VIA or Supervisely. Plugins know more, such as scans and scenes. What was decided is
    printed, with the reason, and stands in the recipe, with a comment for each line.
    """
    from farcluss.jobs.recipe_text import recipe_text
    from farcluss.jobs.starting import Machine, look, plan, told, write
    from farcluss.recipes.reading import load_recipe, merge_settings

    folder, name = output or Path(), f"{source.resolve().name}.toml"
    path = folder / name
    if path.exists() and not (sys.stdin.isatty() and not yes and click.confirm(f"{path} exists. Replace it?")):
        raise RunError(f"{path} exists already. Choose another folder with --output, or remove it.")
    found = look(source, partial(tracked, label="Reading masks"))
    machine, given = Machine.here(), merge_settings(settings)
    chosen = plan(found, machine, given)
    write(folder, name, found, recipe_text(source, found, chosen, path, given))
    try:
        load_recipe(path)
    except RecipeError:
        path.unlink()  # of settings that it cannot have
        raise
    for line in told(found, chosen, machine):
        click.echo(shown(line))
    click.echo(f"wrote {path}; next: farcluss check {path}, then farcluss run {path}")
