"""`farcluss report`."""

from pathlib import Path

import click

from farcluss.cli.commands import device_option, output_option, pick_device, split_option, write_result


@click.command(epilog="Example: farcluss report runs/quickstart -o report.html")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@output_option("report.html", help="The page to write.")
@split_option
@click.option(
    "--images", type=click.IntRange(0, 50), default=4, show_default=True, help="Worst images, and as many best ones."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that decode images."
)
@device_option
def command(runs: tuple[Path, ...], output: Path, split: str | None, images: int, workers: int, device: str) -> None:
    """Report on RUN: one page of HTML that opens anywhere, without a network.

    A single run directory is looked at in depth: curves, classes, calibration, whether uncertainty finds errors, and
    the worst images. Several, or the folder of `farcluss compare`, stand side by side.
    """
    from farcluss.jobs.reporting import report

    text = report(runs, split=split, pictures=images, device=pick_device(device), workers=workers)
    write_result(output, text)
    click.echo(f"wrote {output}, {len(text) / 2**20:.1f} MiB")
