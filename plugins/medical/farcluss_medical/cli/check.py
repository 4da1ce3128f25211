"""`farcluss medical check`."""

from typing import Any

import click

from farcluss.cli.common import emit_json, json_option, read_recipe, recipe_options

SHOWN = 20
WIDTHS = {True: 120, False: 200}
"""At least so many columns for the table, on a terminal and elsewhere: cells that are cut say nothing."""


@click.command(epilog="Example: farcluss medical check ct.toml --set data.root=/data/ct")
@recipe_options
@json_option
def command(
    recipe: str, overlays: tuple[str, ...], settings: tuple[str, ...], plugins: tuple[str, ...], as_json: bool
) -> None:
    """Show the geometry, intensities and labels of every case of RECIPE, with advice, and all that is wrong.

    Exit code 1 when any file cannot be used. `farcluss check` looks at the lists and tries a step.
    """
    loaded = read_recipe(recipe, overlays, settings, plugins)
    from farcluss_medical.checks import check

    report, reading = check(loaded.data)
    if as_json:
        for _ in reading:
            pass
        emit_json(report.to_json())
    else:
        total = sum(map(len, report.dataset.index.splits.values()))
        with click.progressbar(reading, length=total, label=f"reading {total} cases") as bar:
            for _ in bar:
                pass
        _print(report)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(report: Any) -> None:
    if report.rows:
        _print_table(report.rows)
    for note in report.notes:
        click.echo(f"Note: {note}")
    for problem in report.problems[:SHOWN]:
        click.echo(f"Problem: {problem}", err=True)
    if len(report.problems) > SHOWN:
        click.echo(f"... and {len(report.problems) - SHOWN} more; --json lists all.", err=True)
    labeled = sum(row.labeled for row in report.rows)
    found = len(report.problems)
    ending = f"{found or 'no'} problem{'' if found == 1 else 's'}"
    click.echo(f"{len(report.rows)} cases, {labeled} with a label; {ending}")


def _print_table(rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("split", "case", "voxels", "mm", "axes", "type", "intensities"):
        table.add_column(column, no_wrap=True)
    table.add_column("label values: voxels")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    console = Console()
    console.width = max(console.width, WIDTHS[console.is_terminal])
    console.print(table)
    click.echo("voxels and mm are in the order right, anterior, superior; axes are those of the file")


def _cells(row: Any) -> tuple[str, ...]:
    low = min((low for low, _ in row.intensities), default=None)
    high = max((high for _, high in row.intensities), default=None)
    spread = "unreadable" if low is None else f"{low:.5g} to {high:.5g}"
    labels = "  ".join(f"{value}: {count:,}" for value, count in row.labels.items())
    return (
        row.split,
        row.case,
        "x".join(map(str, row.shape)),
        "x".join(f"{step:.3g}" for step in row.spacing),
        row.storage.orientation or "unknown",
        f"{row.channels} {row.storage.dtype}",
        spread,
        labels or ("unreadable" if row.labeled else "unlabeled"),
    )
