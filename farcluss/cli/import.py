"""`farcluss import`."""

from pathlib import Path

import click

from farcluss.cli.commands import emit, json_option, output_option, progress
from farcluss.errors import shown


@click.command("import", epilog="Example: farcluss import labelme photos -o photos-masks --set empty=unlabeled")
@click.argument("format", metavar="FORMAT")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_option(folder=True, help="Folder of the masks, new or empty; default: SOURCE-masks.")
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Set an option of the format; repeatable."
)
@json_option
def command(format: str, source: Path, output: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Write the masks of an annotation export in the folder SOURCE once, as PNG files with lists.

    FORMAT is one of coco-json, labelme, yolo, cvat-xml, cvat-masks, label-studio, label-studio-png, roboflow-masks, via
    and supervisely.
    A recipe can name it as its layout, too, and then masks are drawn whenever an image is read; this is for faster
    training, and for masks to look at and to correct. `farcluss plugins show dataset/FORMAT` lists its options.
    """
    from farcluss.jobs.importing import import_masks, open_export
    from farcluss.recipes.reading import merge_settings

    target = output or source.with_name(f"{source.resolve().name}-masks")
    dataset, splits = open_export(format, source, merge_settings(settings))
    with progress("drawing masks", sum(map(len, splits.values())), quiet=as_json) as advance:
        written = import_masks(dataset, splits, target, advance)
    emit(
        {"data": written.data, "counts": {split: dict(zip(("images", "masks"), counts, strict=True))
                                          for split, counts in written.counts.items()}},
        as_json,
        lambda _: click.echo(shown(written.text())),
    )  # fmt: skip
