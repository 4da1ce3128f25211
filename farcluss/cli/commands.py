"""Building blocks of commands, also of plugins: the recipe, options, tables, progress, result files.

The only module of the command line that plugins import. It imports nothing slow.
"""

import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from farcluss.cli.groups import lazy_group
from farcluss.errors import FarclussError, RunError, by_cause, shown

if TYPE_CHECKING:
    from rich.text import Text

    from farcluss.recipes.model import Recipe

__all__ = [
    "Command",
    "GivenRecipe",
    "add_options",
    "device_option",
    "echo_errors",
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
    "progress",
    "raise_if_debugging",
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
"""Maximum number of problems to list."""
LINES = 4
"""Maximum number of lines of each."""
STEPS = 1000
"""Steps of a progress bar per thing: a large image takes hours."""
QUIET = 30.0
"""Seconds between two lines of progress where there is no terminal."""
NARROWEST = 8
"""Columns of a terminal per column of a table, so that a number is not broken into its digits."""
FOR_GREP = 200
"""Columns of a table that does not go to a terminal: a line per row."""

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
json_option = click.option("--json", "as_json", is_flag=True, default=False, help="Print JSON instead of a table.")
overwrite_option = click.option("--overwrite", is_flag=True, default=False, help="Replace files that exist.")
split_option = click.option(
    "--split", default=None, metavar="SPLIT|LIST", help="val, test or a list file; default: the recipe's val."
)


def output_option(default: str | None = None, *, folder: bool = False, help: str) -> Callable[[Command], Command]:
    """`--output`, a file or a folder to write, passed to the command as the path `output`."""
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
    """A recipe as given on the command line, not yet read.

    Attributes:
        name: RECIPE, a file or the name of a shipped one.
        overlays: values of `--with`.
        settings: values of `--set`.
        plugins: values of `--plugin`.
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
    """RECIPE, `--with`, `--set` and `--plugin`, passed to the command as one `GivenRecipe`, `recipe`."""

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
    """Add options to a command, before those that it has: for options that together make one value."""
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def debugging() -> bool:
    """Whether `--debug` was given, which shows tracebacks."""
    return bool(click.get_current_context().find_root().params.get("debug"))


def raise_if_debugging(error: BaseException) -> None:
    """With `--debug`, raise an error of a file that nobody foresaw, which else is reported at the end."""
    if debugging() and not isinstance(error, FarclussError):
        raise error


def echo_errors(errors: Iterable[tuple[str, str]]) -> None:
    """Print errors of files on stderr, given as name and text, once per cause."""
    for text in by_cause(errors):
        click.echo(shown(f"Error: {text}"), err=True)


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
    """Print plain values as JSON, or with `show` for people."""
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
    """Print a table without truncation: cells that are too long for the terminal wrap.

    Args:
        heads: of the columns.
        rows: cells, one per column.
        numbers: heads of right-aligned columns. If the last column has text, only that column wraps.
        gap: spaces between columns.
        least: minimum width in characters, even on a narrower terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for head in heads:
        whole = heads[-1] not in numbers and head != heads[-1]
        table.add_column(head, justify="right" if head in numbers else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) if isinstance(cell, str) else cell for cell in row))  # no cell is markup
    console = Console()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        least = max(least, FOR_GREP)
    console.width = max(console.width, least, NARROWEST * len(heads))
    console.print(table)


def percent(share: float | None, otherwise: str = "absent") -> str:
    """A share as percent with two digits; `otherwise` for None and NaN."""
    return otherwise if share is None or math.isnan(share) else f"{100 * share:.2f}"


def list_problems(problems: Sequence[str]) -> None:
    """Print the first problems to stderr, the first lines of each, and how many more there are."""
    for problem in problems[:SHOWN]:
        lines = problem.split("\n")
        click.echo(shown("\n".join([f"Problem: {lines[0]}", *lines[1:LINES]])), err=True)
        if len(lines) > LINES:
            click.echo(f"... and {len(lines) - LINES:,} more like these; --json lists all.", err=True)
    if len(problems) > SHOWN:
        click.echo(f"... and {len(problems) - SHOWN} more; --json lists all.", err=True)


def read_all(reading: Iterable[Any], label: str, total: int, *, quiet: bool = False) -> None:
    """Exhaust an iterator that does its work as it goes, with progress unless `quiet`."""
    with progress(label, total, quiet=quiet) as advance:
        for number, _ in enumerate(reading, 1):
            advance(number)


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Show progress: a bar on a terminal, elsewhere the label, then a line every half minute on stderr.

    Yields:
        A function that is called with how many of `total` are done; a share of one may be.
    """
    silent, spoke = not (quiet or (sys.stdout and sys.stdout.isatty())), time.monotonic()
    with click.progressbar(length=STEPS * total, label=label, hidden=quiet) as bar:

        def advance(done: float) -> None:
            nonlocal spoke
            bar.update(round(STEPS * done) - bar.pos)
            if silent and time.monotonic() - spoke > QUIET:
                spoke = time.monotonic()
                click.echo(f"{label}: {int(done)} of {total} done", err=True)

        yield advance


def tracked(things: Sequence[T], label: str = "Scoring") -> Iterable[T]:
    """Iterate with a progress bar on stderr (terminals only), which disappears at the end."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(things, description=label, console=console, transient=True, disable=not console.is_terminal)


def write_result(path: Path, content: Any) -> None:
    """Write a text as it is, or plain values as JSON, atomically."""
    from farcluss.runs.atomic import write_atomically

    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    write_atomically(path, text.encode())


def write_results(folder: Path | None, files: Mapping[str, Any]) -> None:
    """Write files by name into a folder, like `write_result`, and report it; do nothing without a folder."""
    if folder is None:
        return
    for name, content in files.items():
        write_result(folder / name, content)
    click.echo(f"Wrote {' and '.join(files)} to {folder}.", err=True)
