"""`farcluss recipes`."""

from pathlib import Path
from shutil import get_terminal_size

import click

from farcluss.cli.commands import emit_json, json_option
from farcluss.errors import RecipeError
from farcluss.recipes.reading import base_of, find_recipe, read_table, recipe_folder
from farcluss.recipes.texts import read_text


def headline(path: Path) -> str:
    """The first comment line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def methods() -> dict[str, dict[str, str | None]]:
    """The parts of each shipped method: names of plugins by slot; None for the recipe's, of which it sets options.

    Raises:
        RecipeError: a file cannot be read.
    """
    found = {}
    for path in sorted((recipe_folder() / "methods").glob("*.toml")):
        stages = read_table(path).get("stages", {})
        found[path.stem] = {kind: part if isinstance(part, str) else part.get("name") for kind, part in stages.items()}
    return found


@click.group("recipes", epilog="Example: farcluss recipes copy camvid_1_8 my_recipe.toml")
def command() -> None:
    """List, show and copy the shipped recipes."""


@command.command("list", epilog="Example: farcluss recipes list --json")
@json_option
def list_recipes(as_json: bool) -> None:
    """List recipes, and the methods that `--with` overlays."""
    groups = {"recipes": "", "methods (for --with)": "methods"}
    found = {title: sorted((recipe_folder() / below).glob("*.toml")) for title, below in groups.items()}
    parts = methods()
    if as_json:
        lists = {title.split()[0]: {p.stem: headline(p) for p in paths} for title, paths in found.items()}
        emit_json(lists | {"parts": parts})
        return
    for title, paths in found.items():
        click.secho(title, bold=True)
        width = max(len(path.stem) for path in paths)
        for path in paths:
            click.echo(f"  {path.stem:{width}}  {headline(path)}")
            if title != "recipes":
                words = ", ".join(f"{kind} {name or 'of the recipe'}" for kind, name in parts[path.stem].items())
                indent = " " * (width + 4)
                click.secho(click.wrap_text(words, get_terminal_size().columns, indent, indent), dim=True)


@command.command("show", epilog="Example: farcluss recipes show quickstart")
@click.argument("name")
def show_recipe(name: str) -> None:
    """Print a recipe, comments and all."""
    click.echo(read_text(_find(name), RecipeError), nl=False)


@command.command("copy", epilog="Example: farcluss recipes copy quickstart mine.toml")
@click.argument("name")
@click.argument("target", default="", required=False)
def copy_recipe(name: str, target: str) -> None:
    """Copy a recipe to TARGET, by default ./NAME.toml; the recipe it extends is copied to base/ beside it."""
    from farcluss.runs.atomic import unwritable, write_atomically

    copies = _copies(_find(name), target)
    taken = [str(path) for path, content in copies.items() if path.exists() and not _holds(path, content)]
    if taken:
        raise RecipeError(f"{', '.join(taken)} exists already and differs; give another target.")
    for path, content in copies.items():
        try:
            write_atomically(path, content)
        except OSError as error:
            raise RecipeError(unwritable(path, error, "target")) from None
        click.echo(f"wrote {path}")


def _copies(source: Path, target: str) -> dict[Path, bytes]:
    """Contents of a copy of a recipe by path. Raises RecipeError: a file cannot be read, or would lie outside."""
    from farcluss.runs.outputs import real

    copy = Path(target or f"{source.stem}.toml")
    table = read_table(source)
    copies = {copy: source.read_bytes()}
    if base := base_of(source, table):
        below = copy.parent / table["extends"]
        if not real(below).is_relative_to(real(copy.parent)):
            raise RecipeError(
                f"{source} extends {table['extends']}, whose copy would lie outside of {copy.parent}.\n"
                "Copy both files by hand, and set extends to where the base is."
            )
        read_table(base)
        copies[below] = base.read_bytes()
    return copies


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _find(name: str) -> Path:
    try:
        return find_recipe(name)
    except RecipeError:
        return find_recipe(name, "methods")
