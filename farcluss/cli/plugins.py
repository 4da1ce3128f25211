"""`farcluss plugins`: list the installed plugins, show their options, and create one from the template."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import emit_json, json_option, print_table
from farcluss.errors import PluginError, suggestion
from farcluss.plugins import registry
from farcluss.plugins.signatures import REQUIRED, Description, readable

TEMPLATE = Path(__file__).parent.parent / "templates" / "plugin"
GROUPS_OF_TEMPLATE = ("weight", "dataset")


@click.group("plugins", epilog="Example: farcluss plugins show weight/entropy")
def command() -> None:
    """Show the installed plugins, and create a new one."""


@dataclass(frozen=True)
class Row:
    """One line of `plugins list`; status is ok, broken, collision, or unchecked if it would have to be imported."""

    group: str
    name: str
    distribution: str
    version: str
    summary: str
    status: str
    error: str = ""


LIST_EXAMPLES = """\b
Example:
  farcluss plugins list
  farcluss plugins list --load --json
"""


@command.command("list", epilog=LIST_EXAMPLES)
@click.option("--load", is_flag=True, help="Import every plugin, and mark those that fail to import.")
@json_option
def list_plugins(load: bool, as_json: bool) -> None:
    """List every plugin with its distribution and status, without importing any.

    FARCLUSS_PLUGINS= (set, but empty) hides all but the built-in ones.
    """
    found = list(registry.find())
    keys = [(plugin.group, plugin.name) for plugin in found]
    rows = [_row(plugin, load, keys.count((plugin.group, plugin.name)) > 1) for plugin in found]
    if as_json:
        emit_json([vars(row) for row in rows])
    else:
        _print_list(rows)


def _row(plugin: registry.Plugin, load: bool, twice: bool) -> Row:
    summary, status, error = None, "ok", ""
    try:
        summary = plugin.peek()
        if load:
            plugin.load()
            summary = plugin.describe().summary if summary is None else summary
        elif summary is None:
            status = "unchecked"
    except PluginError as caught:
        status, error = "broken", str(caught)
    if twice:
        status, error = "collision", f"Two plugins are called {plugin.group}/{plugin.name}. Uninstall one of them."
    return Row(plugin.group, plugin.name, plugin.distribution, plugin.version, summary or "", status, error)


def _print_list(rows: list[Row]) -> None:
    from rich.text import Text

    colors = {"ok": "green", "unchecked": "yellow", "broken": "red", "collision": "red"}
    print_table(
        ("group", "name", "distribution", "version", "status", "summary"),
        [
            (row.group, row.name, row.distribution, row.version, Text(row.status, colors[row.status]), row.summary)
            for row in rows
        ],
    )
    for error in dict.fromkeys(row.error for row in rows if row.error):
        click.echo(f"\n{error}")


SHOW_EXAMPLES = """\b
Example:
  farcluss plugins show weight/entropy
  farcluss plugins show rebalance/median-frequency --json
"""


@command.command("show", epilog=SHOW_EXAMPLES)
@click.argument("plugin", metavar="GROUP/NAME")
@json_option
def show(plugin: str, as_json: bool) -> None:
    """Show a plugin's documentation and options, and the methods that are made of it."""
    from farcluss.cli.recipes import methods  # imported here, as it imports pydantic

    group, slash, name = plugin.partition("/")
    if not slash:
        raise click.UsageError(f"{plugin!r} is not GROUP/NAME, for example weight/entropy.")
    if group not in registry.GROUPS:
        known = ", ".join(registry.GROUPS)
        raise PluginError(f"There is no plugin group {group!r}{suggestion(group, registry.GROUPS)} Known: {known}.")
    found = registry.get(group, name)
    description = found.describe()
    header = {"group": group, "name": name, "distribution": found.distribution, "version": found.version}
    users = [method for method, parts in methods().items() if parts.get(group) == name]
    if as_json:
        rest = {"doc": description.doc, "options": _options(description), "any_option": description.open}
        click.echo(json.dumps(header | rest | {"methods": users}, indent=2, default=str))
    else:
        click.echo(f"{plugin}, from {found.distribution} {found.version}".rstrip())
        click.echo(f"\n{_without_args(description.doc)}")
        _print_options(description)
        if users:
            click.echo(f"\nMethods with it (--with): {', '.join(users)}.")


def _options(description: Description) -> list[dict[str, Any]]:
    return [
        {"name": name, "type": readable(option.annotation), "required": option.default is REQUIRED, "help": option.help}
        | ({} if option.default is REQUIRED else {"default": option.default})
        for name, option in description.options.items()
    ]


def _without_args(doc: str) -> str:
    """The documentation without its `Args:` block, which the table of options repeats."""
    return re.sub(r"\n*^Args:\n(?:[ \t]+.*\n?|\n)+", "\n\n", doc, flags=re.MULTILINE).strip()


def _print_options(description: Description) -> None:
    if not description.options:
        click.echo("\nTakes any option." if description.open else "\nNo options.")
        return
    rows = [
        (option["name"], option["type"], "required" if option["required"] else _toml(option["default"]), option["help"])
        for option in _options(description)
    ]
    click.echo()
    print_table(("option", "type", "default", "meaning"), rows)


def _toml(value: Any) -> str:
    """A default value as it is written in a recipe."""
    return "unset" if value is None else json.dumps(value, default=str)


NEW_EXAMPLES = """\b
Example:
  farcluss plugins new nuclei
  farcluss plugins new nuclei --folder ~/code/farcluss-nuclei
"""


@command.command("new", epilog=NEW_EXAMPLES)
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to create; default: ./farcluss-NAME.")
def new(name: str, folder: Path | None) -> None:
    """Create a working plugin package: a weight stage, a data set, their tests and a recipe that uses both."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise click.UsageError(f"{name!r} is not a plugin name: use lower-case letters, digits and single dashes.")
    folder = folder or Path(f"farcluss-{name}")
    if folder.exists():
        raise PluginError(f"{folder} exists already. Choose another name or --folder.")
    for group in GROUPS_OF_TEMPLATE:
        if taken := [plugin for plugin in registry.find(group) if plugin.name == name]:
            raise PluginError(f"{group}/{name} exists already, in {taken[0].distribution}. Choose another name.")
    write_template(name, folder)
    click.echo(f"{folder} is a plugin with a weight stage and a data set, both called {name!r}. Next:\n")
    click.echo(f"  pip install -e {folder}\n  farcluss plugins list\n  farcluss run {folder / 'recipe.toml'}\n")
    click.echo(f"Its tests: pytest {folder}. How it works: docs/plugins.md.")


def write_template(name: str, folder: Path) -> None:
    """Copy the template to a new `folder`, with its placeholder NAME replaced in texts and file names.

    Raises:
        PluginError: it cannot be written; nothing is left of it.
    """
    from farcluss.runs.atomic import UNFINISHED, unwritable

    aside = folder.with_name(f".{folder.name}{UNFINISHED}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        _fill(aside, name)
        aside.rename(folder)
    except OSError as error:
        raise PluginError(unwritable(folder, error, "--folder")) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(folder: Path, name: str) -> None:
    package = f"farcluss_{name.replace('-', '_')}"
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_dir() or "__pycache__" in source.parts:
            continue
        target = folder / str(source.relative_to(TEMPLATE)).replace("farcluss_NAME", package)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8").replace("farcluss_NAME", package).replace("NAME", name)
        target.write_text(text, encoding="utf-8", newline="\n")
