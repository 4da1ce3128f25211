"""`farcluss compare`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import (
    GivenRecipe,
    emit,
    emit_json,
    json_option,
    output_option,
    print_table,
    recipe_options,
    write_results,
)
from farcluss.errors import counted


class ListOptions(click.Command):
    """A command whose repeatable options take several values at once: `--seeds 0 1 2`."""

    lists = ("--methods", "--seeds", "--labeled")

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments with each such option before each of its values."""
        return super().parse_args(context, self.spread(args, context))

    def spread(self, args: list[str], context: click.Context | None = None) -> list[str]:
        """Repeat the options before each of their values. Raises UsageError for one without a value."""
        found, option = list[str](), ""
        for arg, following in zip(args, [*args[1:], "-"], strict=True):
            if arg in self.lists and following.startswith("-"):
                raise click.UsageError(f"Option '{arg}' requires an argument.", context)
            option = arg if arg in self.lists else "" if arg.startswith("-") else option
            if arg not in self.lists:
                found += [option, arg] if option else [arg]
        return found


@click.command(
    cls=ListOptions,
    epilog="Example: farcluss compare camvid_1_8 --methods supervised fixmatch farcluss --seeds 0 1 2 --jobs 2",
)
@recipe_options
@click.option(
    "--methods",
    multiple=True,
    default=("supervised", "farcluss"),
    metavar="METHOD...",
    help='Overlays as for --with, the first to compare with; quoted together with settings, "farcluss '
    'stages.mix=cutmix". Default: supervised farcluss.',
)
@click.option("--seeds", type=int, multiple=True, default=(0, 1, 2), metavar="N...", help="train.seed; default: 0 1 2.")
@click.option("--labeled", multiple=True, metavar="SHARE...", help='data.labeled, such as "1/16" "1/8".')
@click.option("--split", default=None, metavar="SPLIT|LIST", help="val, test or a list file to score on; default: val.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
@click.option("--plan", "only_plan", is_flag=True, default=False, help="Print the runs and how long they take here.")
@output_option(folder=True, help="Folder of the runs and of their table; default runs/compare-NAME.")
@json_option
def command(
    recipe: GivenRecipe,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    labeled: tuple[str, ...],
    split: str | None,
    jobs: int,
    only_plan: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare methods on RECIPE: train each with each seed, and say what the differences allow to say.

    What is done is not done again, and what was interrupted goes on: the same command ends with the same table. RECIPE
    comes first, as the options take all values up to the next one.
    """
    from farcluss.jobs.comparing import plan, refuse_others, work
    from farcluss.plugins.registry import load_file

    for path in recipe.plugins:
        load_file(path)
    folder = output or Path("runs") / f"compare-{Path(recipe.name).stem}"
    planned = plan(
        recipe.name, methods, seeds, labeled, folder, recipe.overlays, recipe.settings, recipe.plugins, split
    )
    refuse_others(planned)
    if only_plan:
        _print_plan(planned, jobs, as_json)
        return
    missing = [job for job in planned if not job.done]
    click.echo(f"{counted(len(planned), 'run')} in {folder}, {len(planned) - len(missing)} done", err=True)
    failed = work(planned, jobs, lambda text: click.echo(text, err=True))
    _conclude(planned, failed, folder, split, as_json)
    if failed:
        raise click.exceptions.Exit(1)


def _conclude(planned: Any, failed: dict[str, str], folder: Path, split: str | None, as_json: bool) -> None:
    """Write table and figures, print them, and name what failed."""
    from farcluss.jobs.comparison import results_of, rows_of, to_json, to_markdown

    rows = rows_of(results_of(planned))
    facts = {"recipe": planned[0].recipe.name, "split": split or "val", "network": planned[0].recipe.eval.network}
    figures = to_json(rows, failed, facts)
    if rows:
        facts["images"] = f"{counted(len(rows[0].runs[0].images.images), 'image')} of {facts['split']}"
        table = to_markdown(rows, facts)
        write_results(folder, {"table.md": table, "results.json": figures})
        if find_spec("matplotlib"):
            from farcluss.jobs.reporting import report

            write_results(folder, {"report.html": report([folder], split=None, pictures=0, device="cpu", workers=0)})
        emit(figures, as_json, lambda _: click.echo(table))
    for name, text in failed.items():
        click.echo(f"{name} failed: {text}", err=True)


def _print_plan(planned: Any, jobs: int, as_json: bool) -> None:
    from farcluss.jobs.estimating import estimate

    lines = estimate(planned)
    hours = sum(each["hours"] for each in lines if not each["done"]) / jobs
    if as_json:
        emit_json({"runs": lines, "hours": hours})
        return
    heads = ("run", "steps", "s per step", "hours", "state")
    rows = [
        (each["run"], str(each["steps"]), f"{each['seconds_per_step']:.2f}", f"{each['hours']:.2f}", each["state"])
        for each in lines
    ]
    print_table(heads, rows, numbers=("steps", "s per step", "hours"))
    click.echo(f"{sum(not each['done'] for each in lines)} runs to do: about {hours:.1f} hours here, {jobs} at a time")
