"""`farcluss pack`."""

from pathlib import Path

import click

from farcluss.cli.commands import GivenRecipe, output_option, overwrite_option, recipe_options


@click.command(epilog="Example: farcluss pack recipes/camvid_1_8.toml -o camvid.h5 --set data.root=/data/camvid")
@recipe_options
@output_option(help="File to write, e.g. camvid.h5.")
@click.option(
    "--compression",
    type=click.Choice(["none", "lzf"]),
    default="none",
    show_default=True,
    help="lzf: smaller files for smooth images, slower to read.",
)
@overwrite_option
@click.option("--verify", is_flag=True, default=False, help="RECIPE is a packed file: read and check all of it.")
def command(recipe: GivenRecipe, output: Path | None, compression: str, overwrite: bool, verify: bool) -> None:
    """Pack all images and masks of RECIPE's data set into one file, from which crops are read many times faster.

    Train from it with --set data.pack=FILE. Run the command again to continue after an interruption.
    """
    if verify:
        if output or recipe != GivenRecipe(recipe.name) or overwrite or compression != "none":
            raise click.UsageError("--verify takes the packed file alone: farcluss pack --verify FILE.h5")
        _verify(Path(recipe.name))
        return
    if output is None:
        raise click.UsageError("Give the file to write: -o FILE.h5")
    loaded = recipe.read()
    from farcluss.jobs.packing import Packing

    packing = Packing(loaded.data, output, "lzf" if compression == "lzf" else "none", overwrite)
    shown = 0
    with click.progressbar(length=packing.total, label=f"packing {packing.total} images") as bar:
        for done in packing:
            bar.update(done - bar.pos)
            for note in packing.notes[shown:]:
                click.echo(note, err=True)
            shown = len(packing.notes)
    images, masks = len(packing.contents.images), len(packing.contents.masks)
    click.echo(f"wrote {output}: {images} images, {masks} masks, {output.stat().st_size / 2**20:,.1f} MiB")


def _verify(path: Path) -> None:
    from farcluss.jobs.verifying import inspect

    inspection = inspect(path)
    with click.progressbar(inspection, label=f"reading {len(inspection)} images") as bar:
        problems = [problem for problem in bar if problem]
    for problem in problems:
        click.echo(f"Problem: {problem}", err=True)
    if problems:
        click.echo(f"{len(problems)} of {len(inspection)} images are damaged. Write {path} again.", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"{path}: {len(inspection)} images, all intact")
