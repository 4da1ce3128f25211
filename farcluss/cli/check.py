"""`farcluss check`."""

from collections.abc import Sequence
from typing import Any

import click

from farcluss.cli.commands import (
    GivenRecipe,
    emit_json,
    json_option,
    list_problems,
    percent,
    print_table,
    read_all,
    recipe_options,
)


@click.command(epilog="Example: farcluss check recipes/camvid_1_8.toml --set data.root=/data/camvid")
@recipe_options
@click.option("--no-step", is_flag=True, default=False, help="Build the networks, but try no step.")
@json_option
def command(recipe: GivenRecipe, no_step: bool, as_json: bool) -> None:
    """Validate RECIPE, read every file it uses, and dry-run a step to measure its time and memory.

    Pretrained weights are loaded, and downloaded if they have to be, as in a run. All problems are listed; the exit
    code is 1 if there are any.
    """
    loaded = recipe.read()
    from farcluss.jobs.checking import Unusable, check, dry_run, settings

    try:
        parts, findings, reading = check(loaded)
    except Unusable as error:
        if as_json:
            emit_json({"problems": [*error.problems, *([error.text] if error.text else [])]})
        else:
            list_problems(error.problems)
        if error.text:
            raise
        raise click.exceptions.Exit(1) from None
    total = sum(len(items) for items in (parts.splits.labeled, parts.splits.unlabeled, parts.splits.val))
    read_all(reading, f"reading {total} images", total, quiet=as_json)
    facts, known = findings.to_json(parts.dataset.classes), settings(loaded, parts.dataset)
    if not as_json:
        _settings(known)
        _report(facts, parts)
    steps, say = 0 if no_step else 3, (lambda _: None) if as_json else click.echo
    cost = {} if findings.problems else dry_run(parts, steps, say)
    if as_json:
        table = {key: {"value": value, "from": source} for key, (value, source) in known.items()}
        emit_json({"settings": table, "lists": parts.splits.names, **facts, "dry_run": cost})
    else:
        _conclude(facts, cost)
    if findings.problems:
        raise click.exceptions.Exit(1)


def _settings(known: dict[str, tuple[Any, str]]) -> None:
    """What the data set may say, and who says it."""
    for key, (value, source) in known.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        click.echo(f"{key:14} {shown if len(shown) <= 80 else f'{shown[:77]}...'} ({source})")


def _report(facts: dict[str, Any], parts: Any) -> None:
    for name, sizes in facts["sizes"].items():
        found = ", ".join(f"{count} of {size}" for size, count in list(sizes.items())[:4])
        more = f" and {len(sizes) - 4} other sizes" if len(sizes) > 4 else ""
        click.echo(f"{name:9} {len(getattr(parts.splits, name)):6} images ({parts.splits.names[name]}): {found}{more}")
    if facts["pixels"]:
        _print_shares(facts["pixels"])


def _conclude(facts: dict[str, Any], cost: dict[str, float]) -> None:
    """Warnings and problems, or what a step costs, and whether the recipe can be run."""
    for warning in facts["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
    if problems := facts["problems"]:
        list_problems(problems)
        click.echo(f"{_counted(problems, 'problem')}: the recipe cannot be run.", err=True)
        return
    if "loss" in cost:
        click.echo(
            f"one step: {cost['seconds_per_step']:.2f} s, {cost['memory_gib']:.2f} GiB peak, "
            f"{cost['parameters_millions']:.3f} M parameters, loss {cost['loss']:.4f}. ",
            nl=False,
        )
    warnings = f", with {_counted(facts['warnings'], 'warning')}" if facts["warnings"] else ""
    click.echo(f"The recipe is ready to run{warnings}.")


def _counted(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _print_shares(pixels: dict[str, dict[str, int]]) -> None:
    """The share of each class in each list."""
    totals = {name: sum(counts.values()) for name, counts in pixels.items()}
    rows = [
        (key, *(percent(counts[key] / totals[name] or None, "none") for name, counts in pixels.items()))
        for key in next(iter(pixels.values()))
    ]
    heads = ("class", *(f"{name} %" for name in pixels))
    print_table(heads, rows, numbers=heads[1:])
