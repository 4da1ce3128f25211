"""`farcluss medical check`."""

from typing import Any

import click

from farcluss.cli.commands import (
    GivenRecipe,
    emit_json,
    json_option,
    list_problems,
    print_table,
    read_all,
    recipe_options,
)

HEADS = ("split", "case", "voxels", "mm", "axes", "type", "intensities", "label values: voxels")
LEAST = 120
"""Minimum width of the table, as wrapped cells are hard to read."""


@click.command(epilog="Example: farcluss medical check ct.toml --set data.root=/data/ct")
@recipe_options
@json_option
def command(recipe: GivenRecipe, as_json: bool) -> None:
    """Show the geometry, intensities and labels of every case of RECIPE, with advice and all problems.

    Exit code 1 when any file cannot be used. `farcluss check` looks at the lists and tries a step.
    """
    loaded = recipe.read()
    from farcluss_medical.checks import check

    report, reading = check(loaded.data)
    total = sum(map(len, report.dataset.index.splits.values()))
    read_all(reading, f"reading {total} cases", total, quiet=as_json)
    if as_json:
        emit_json(report.to_json())
    else:
        _print(report)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(report: Any) -> None:
    if report.rows:
        print_table(HEADS, map(_cells, report.rows), least=LEAST)
        click.echo("voxels and mm are in the order right, anterior, superior; axes are those of the file")
    for note in report.notes:
        click.echo(f"Note: {note}")
    list_problems(report.problems)
    labeled = sum(row.labeled for row in report.rows)
    found = len(report.problems)
    ending = f"{found or 'no'} problem{'' if found == 1 else 's'}"
    click.echo(f"{len(report.rows)} cases, {labeled} with a label; {ending}")


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
