"""What commands are made of, the core's and those of plugins: the recipe, options, tables, progress, files of results.

The one module of the command line that plugins import. Nothing heavy is imported with it.
"""

import functools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from farcluss.cli.groups import lazy_group
from farcluss.errors import RunError

if TYPE_CHECKING:
    from rich.text import Text

    from farcluss.recipes.model import Recipe

__all__ = [
    "Command",
    "GivenRecipe",
    "add_options",
    "device_option",
    "emit",
    "emit_json",
    "json_option",
    "lazy_group",
    "list_problems",
    "output_option",
    "overwrite_option",
    "percent",
    "pick_device",
    "print_table",
    "read_all",
    "recipe_options",
    "split_option",
    "tracked",
    "write_result",
    "write_results",
]

T = TypeVar("T")
Command = Callable[..., Any]

SHOWN = 20
"""Problems that are listed one by one."""
FOR_GREP = 200
"""Columns of a table elsewhere than on a terminal: a line per row."""

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
json_option = click.option("--json", "as_json", is_flag=True, default=False, help="Print JSON instead of a table.")
overwrite_option = click.option("--overwrite", is_flag=True, default=False, help="Replace files that exist.")
split_option = click.option(
    "--split", default=None, metavar="SPLIT|LIST", help="val, test or a list file; default: the recipe's val."
)


def output_option(default: str | None = None, *, folder: bool = False, help: str) -> Callable[[Command], Command]:
    """`--output`, a file or a folder to write, which the command gets as a path called `output`."""
    return click.option(
        "--output",
        "-o",
        type=click.Path(file_okay=not folder, dir_okay=folder, path_type=Path),
        default=default,
        show_default=default is not None,
        metavar="DIR" if folder else "FILE",
        help=help,
    )


@dataclass(frozen=True)
class GivenRecipe:
    """A recipe as a command line names it, not yet read.

    Attributes:
        name: RECIPE, a file or the name of a shipped one.
        overlays: of `--with`.
        settings: of `--set`.
        plugins: files of `--plugin`.
    """

    name: str
    overlays: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()

    def read(self) -> "Recipe":
        """Load local plugins, then the recipe. Raises PluginError, RecipeError."""
        from farcluss.plugins.registry import load_file
        from farcluss.recipes.reading import load_recipe

        for path in self.plugins:
            load_file(path)
        return load_recipe(self.name, self.overlays, self.settings)


def recipe_options(command: Command) -> Command:
    """RECIPE, `--with`, `--set` and `--plugin`, which the command gets as one `GivenRecipe` called `recipe`."""

    @functools.wraps(command)
    def call(recipe: str, overlays: Any, settings: Any, plugins: Any, **others: Any) -> Any:
        return command(recipe=GivenRecipe(recipe, overlays, settings, plugins), **others)

    return add_options(
        call,
        click.argument("recipe"),
        click.option(
            "--with",
            "overlays",
            multiple=True,
            metavar="FILE",
            help="Overlay a recipe or a shipped method; repeatable.",
        ),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set one key, e.g. train.lr=0.01; repeatable."
        ),
        click.option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="Run a local plugin file first."),
    )


def add_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """A command with options, before those that it has: for several that one value is made of."""
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def pick_device(name: str) -> Any:
    """The device to run on: `auto` takes CUDA, then MPS, then the CPU. Raises RunError for an unknown one."""
    import torch

    if name != "auto":
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError):
            raise RunError(f"There is no device {name!r} here; give auto, cpu, cuda, cuda:1 or mps.") from None
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def emit(facts: T, as_json: bool, show: Callable[[T], None]) -> None:
    """Print plain values as JSON, or for people by `show`."""
    if as_json:
        emit_json(facts)
    else:
        show(facts)


def emit_json(value: Any) -> None:
    """Print a value as JSON, for programs; NaN and infinity become null, as JSON has neither."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    click.echo(json.dumps(finite, indent=2))


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    numbers: Collection[str] = (),
    gap: int = 2,
    least: int = 0,
) -> None:
    """Print a table, of which nothing is left out: cells that are too long for the terminal go on below.

    Args:
        heads: of the columns.
        rows: cells, one per column.
        numbers: heads of the columns that are aligned to the right. Where the last column is of words, it alone breaks.
        gap: spaces between columns.
        least: columns that the terminal is taken to have at least.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for head in heads:
        whole = heads[-1] not in numbers and head != heads[-1]
        table.add_column(head, justify="right" if head in numbers else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))  # no cell is markup
    console = Console()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        least = max(least, FOR_GREP)
    console.width = max(console.width, least)
    console.print(table)


def percent(share: float | None, otherwise: str = "absent") -> str:
    """A share as percent with two digits; `otherwise` for None and NaN."""
    return otherwise if share is None or math.isnan(share) else f"{100 * share:.2f}"


def list_problems(problems: Sequence[str]) -> None:
    """Print the first problems to stderr, and how many more there are."""
    for problem in problems[:SHOWN]:
        click.echo(f"Problem: {problem}", err=True)
    if len(problems) > SHOWN:
        click.echo(f"... and {len(problems) - SHOWN} more; --json lists all.", err=True)


def read_all(reading: Iterable[Any], label: str, total: int, *, quiet: bool = False) -> None:
    """Go through what does its work as one does, under a progress bar unless `quiet`."""
    with click.progressbar(reading, length=total, label=label, hidden=quiet) as bar:
        deque(bar, maxlen=0)


def tracked(things: Sequence[T], label: str = "Scoring") -> Iterable[T]:
    """Things to go through, with a bar on a terminal's stderr that vanishes at the end."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(things, description=label, console=console, transient=True, disable=not console.is_terminal)


def write_result(path: Path, content: Any) -> None:
    """Write a text as it is, or plain values as JSON; whole, or not at all."""
    from farcluss.runs.atomic import write_atomically

    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    write_atomically(path, text.encode())


def write_results(folder: Path | None, files: Mapping[str, Any]) -> None:
    """Write files by name into a folder, as `write_result` does, and say so; nothing without a folder."""
    if folder is None:
        return
    for name, content in files.items():
        write_result(folder / name, content)
    click.echo(f"Wrote {' and '.join(files)} to {folder}.", err=True)
