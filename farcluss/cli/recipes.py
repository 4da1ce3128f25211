"""`farcluss recipes`."""

import tomllib
from pathlib import Path

import click

from farcluss.cli.commands import emit_json, json_option
from farcluss.errors import RecipeError
from farcluss.recipes.reading import find_recipe, recipe_folder


def headline(path: Path) -> str:
    """The first comment line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


@click.group("recipes", epilog="Example: farcluss recipes copy camvid_1_8 my_recipe.toml")
def command() -> None:
    """List, show and copy the shipped recipes."""


@command.command("list", epilog="Example: farcluss recipes list --json")
@json_option
def list_recipes(as_json: bool) -> None:
    """List recipes, and the methods that `--with` overlays."""
    groups = {"recipes": "", "methods (for --with)": "methods"}
    found = {title: sorted((recipe_folder() / below).glob("*.toml")) for title, below in groups.items()}
    if as_json:
        emit_json({title.split()[0]: {p.stem: headline(p) for p in paths} for title, paths in found.items()})
        return
    for title, paths in found.items():
        click.secho(title, bold=True)
        width = max(len(path.stem) for path in paths)
        for path in paths:
            click.echo(f"  {path.stem:{width}}  {headline(path)}")


@command.command("show", epilog="Example: farcluss recipes show quickstart")
@click.argument("name")
def show_recipe(name: str) -> None:
    """Print a recipe, comments and all."""
    click.echo(_find(name).read_text(encoding="utf-8"), nl=False)


@command.command("copy", epilog="Example: farcluss recipes copy quickstart mine.toml")
@click.argument("name")
@click.argument("target", default="", required=False)
def copy_recipe(name: str, target: str) -> None:
    """Copy a recipe to TARGET, by default ./NAME.toml; the recipe it extends is copied to base/ beside it."""
    source = _find(name)
    copies = {Path(target or f"{source.stem}.toml"): source}
    if base := tomllib.loads(source.read_text(encoding="utf-8")).get("extends"):
        copies[next(iter(copies)).parent / base] = source.parent / base
    taken = [str(path) for path in copies if path.exists() and path.read_bytes() != copies[path].read_bytes()]
    if taken:
        raise RecipeError(f"{', '.join(taken)} exists already and differs; give another target.")
    for path, original in copies.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(original.read_bytes())
        except OSError as error:
            raise RecipeError(f"{path} cannot be written: {error.strerror}. Give another target.") from None
        click.echo(f"wrote {path}")


def _find(name: str) -> Path:
    try:
        return find_recipe(name)
    except RecipeError:
        return find_recipe(name, "methods")
