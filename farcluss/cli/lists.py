"""`farcluss lists`: show and download the published labeled/unlabeled lists."""

from pathlib import Path

import click

from farcluss.cli.commands import emit, json_option, print_table
from farcluss.data import published

EXAMPLES = """\b
Example:
  farcluss lists
  farcluss lists get voc-classic-92
  farcluss run RECIPE --set data.labeled=voc-classic-92
"""

GET_EXAMPLES = """\b
Example:
  farcluss lists get cityscapes-cps-1_4 voc-classic-92
  farcluss lists get voc-classic-92 --from ~/Downloads/voc92
"""


@click.group("lists", invoke_without_command=True, epilog=EXAMPLES)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show the published labeled/unlabeled lists of the field.

    Set data.labeled to a list's name; `farcluss lists get` downloads it. "Clean" means the 1,464 masks of VOC 2012
    itself; the others come from SBD.
    """
    if context.invoked_subcommand:
        return
    emit([_row(known) for known in published.PUBLISHED.values()], as_json, _print_table)


def _row(known: published.PublishedList) -> dict[str, str | int | bool | None]:
    folder = published.lists_folder() / known.name
    return {
        "name": known.name,
        "labeled": known.labeled.size,
        "unlabeled": known.unlabeled.size if known.unlabeled else None,
        "downloaded": all((folder / file).is_file() for file in known.files),
        "description": known.description,
    }


def _print_table(rows: list[dict[str, str | int | bool | None]]) -> None:
    cells = []
    for row in rows:
        unlabeled = "" if row["unlabeled"] is None else f"{row['unlabeled']:,}"
        downloaded = "yes" if row["downloaded"] else "no"
        cells.append((str(row["name"]), f"{row['labeled']:,}", unlabeled, downloaded, str(row["description"])))
    print_table(("name", "labeled", "unlabeled", "here", "description"), cells, numbers=("labeled", "unlabeled"))


@command.command("get", epilog=GET_EXAMPLES)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read labeled.txt and unlabeled.txt in this folder instead of downloading them; for one NAME.",
)
def get(names: tuple[str, ...], folder: Path | None) -> None:
    """Download published lists, verify them, and store them where every recipe finds them.

    They are stored in $FARCLUSS_DATA/lists, by default below the user's data folder.
    """
    if folder and len(names) > 1:
        raise click.UsageError("--from takes the files of one list; give one NAME.")
    for name in names:
        published.find(name)
    for name in names:
        labeled, _ = published.get(name, folder=folder)
        click.echo(f"{name}: {labeled.parent}")
