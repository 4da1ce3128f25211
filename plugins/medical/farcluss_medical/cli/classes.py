"""Options for the classes to score: single labels, or regions of several labels."""

import functools
from typing import TYPE_CHECKING, Any

import click

from farcluss.cli.commands import Command, add_options

if TYPE_CHECKING:
    from farcluss_medical.evaluation import Region


def class_options(command: Command) -> Command:
    """`--labels`, `--names` and `--region`, passed to the command as one list of regions, `classes`."""

    @functools.wraps(command)
    def call(labels: str | None, names: str | None, regions: tuple[str, ...], **others: Any) -> Any:
        return command(classes=_classes(labels, names, regions), **others)

    return add_options(
        call,
        click.option(
            "--labels", default=None, metavar="1,2", help="Labels to score; default: all but 0 in the ground truths."
        ),
        click.option("--names", default=None, metavar="A,B", help="Names of --labels, in their order."),
        click.option(
            "--region", "regions", multiple=True, metavar="NAME=1,2", help="Score labels as one class; repeatable."
        ),
    )


def _classes(labels: str | None, names: str | None, regions: tuple[str, ...]) -> "list[Region]":
    """The classes that the options name; an empty list means every label. Raises UsageError."""
    from farcluss_medical.evaluation import Region

    if labels is not None and regions:
        raise click.UsageError("--labels scores one label per class, --region several; give one of them.")
    if names is not None and labels is None:
        raise click.UsageError("--names are the names of --labels; give both.")
    if regions:
        classes = [Region(name.strip(), _integers("--region", part)) for name, _, part in map(_split, regions)]
    else:
        numbers = _integers("--labels", labels) if labels is not None else ()
        given = [name.strip() for name in names.split(",")] if names is not None else [str(n) for n in numbers]
        if len(given) != len(numbers):
            raise click.UsageError(f"--labels has {len(numbers)} labels, --names {len(given)} names.")
        classes = [Region(name, (number,)) for name, number in zip(given, numbers, strict=True)]
    known = [one.name for one in classes]
    if twice := next((name for name in known if known.count(name) > 1), None):
        raise click.UsageError(f"The class {twice!r} is named twice.")
    return classes


def _split(region: str) -> tuple[str, str, str]:
    parts = region.partition("=")
    if not parts[0].strip() or not parts[1]:
        raise click.UsageError(f"--region {region}: write NAME=1,2.")
    return parts


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{option}: {text!r} is not a list of integers such as 1,2.") from None
    if 0 in numbers:
        raise click.UsageError(f"{option}: 0 is the background, which is not scored.")
    return numbers
