"""`farcluss check`."""

from typing import Any

import click

from farcluss.cli.common import emit_json, json_option, read_recipe, recipe_options

SHOWN = 20


@click.command(epilog="Example: farcluss check recipes/camvid_1_8.toml --set data.root=/data/camvid")
@recipe_options
@json_option
def command(
    recipe: str, overlays: tuple[str, ...], settings: tuple[str, ...], plugins: tuple[str, ...], as_json: bool
) -> None:
    """Validate RECIPE, read every file it uses, and dry-run a step to measure its time and memory.

    All problems are listed; the exit code is 1 if there are any.
    """
    loaded = read_recipe(recipe, overlays, settings, plugins)
    from farcluss.jobs.checking import Unusable, check, dry_run

    try:
        parts, findings, reading = check(loaded)
    except Unusable as error:
        if as_json:
            emit_json({"problems": [*error.problems, str(error)]})
        else:
            _list(error.problems)
        raise
    total = sum(len(items) for items in (parts.splits.labeled, parts.splits.unlabeled, parts.splits.val))
    if as_json:
        for _ in reading:
            pass
    else:
        with click.progressbar(reading, length=total, label=f"reading {total} images") as bar:
            for _ in bar:
                pass
    cost = {} if findings.problems else dry_run(loaded, parts)
    report = findings.to_json(parts.dataset.classes)
    if as_json:
        emit_json({"lists": parts.splits.names, **report, "dry_run": cost})
    else:
        _report(report, parts, cost)
    if findings.problems:
        raise click.exceptions.Exit(1)


def _report(report: dict[str, Any], parts: Any, cost: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    for name, sizes in report["sizes"].items():
        found = ", ".join(f"{count} of {size}" for size, count in list(sizes.items())[:4])
        more = f" and {len(sizes) - 4} other sizes" if len(sizes) > 4 else ""
        click.echo(f"{name:9} {len(getattr(parts.splits, name)):6} images ({parts.splits.names[name]}): {found}{more}")
    click.echo(f"channels  {parts.recipe.data.channels} per image")
    if report["pixels"]:
        table = Table("class", *(f"{name} %" for name in report["pixels"]))
        for key in next(iter(report["pixels"].values())):
            shares = [100 * counts[key] / sum(counts.values()) for counts in report["pixels"].values()]
            table.add_row(key, *(f"{share:.2f}" if share else "none" for share in shares))
        Console().print(table)
    if problems := report["problems"]:
        _list(problems)
        click.echo(f"{len(problems)} files cannot be used.", err=True)
    else:
        click.echo(
            f"one step: {cost['seconds_per_step']:.2f} s, {cost['memory_gib']:.2f} GiB peak, "
            f"{cost['parameters_millions']:.3f} M parameters, loss {cost['loss']:.4f}. The recipe is ready to run."
        )


def _list(problems: list[str]) -> None:
    for problem in problems[:SHOWN]:
        click.echo(f"Problem: {problem}", err=True)
    if len(problems) > SHOWN:
        click.echo(f"... and {len(problems) - SHOWN} more; --json lists all.", err=True)
