"""`farcluss export`."""

from pathlib import Path

import click

from farcluss.cli.commands import output_option, overwrite_option


@click.command(epilog="Example: farcluss export runs/quickstart -o model.safetensors --onnx model.onnx")
@click.argument("source", type=click.Path(path_type=Path))
@output_option("model.safetensors", help="Where to write the model.")
@click.option(
    "--network",
    type=click.Choice(["teacher", "student"]),
    default="teacher",
    show_default=True,
    help="Network to export.",
)
@click.option("--onnx", default=None, type=click.Path(path_type=Path), help="Also export an ONNX graph, and check it.")
@click.option(
    "--size",
    default=None,
    type=click.IntRange(min=1),
    help="Pixels per side of the ONNX input; default: the training crop.",
)
@overwrite_option
def command(source: Path, output: Path, network: str, onnx: Path | None, size: int | None, overwrite: bool) -> None:
    """Write SOURCE, a run directory or a weights file, as one self-contained .safetensors file."""
    from farcluss.errors import WeightsError
    from farcluss.inference.weights import save_weights
    from farcluss.jobs.exporting import export_onnx, files_of, load_source
    from farcluss.runs.outputs import real, replaced

    if onnx is not None and (real(onnx) == real(output) or replaced([onnx], [output])):
        raise click.UsageError("--output and --onnx name the same file; give two different names.")
    for path in (output, onnx):
        if path is not None and path.exists() and not overwrite:
            raise WeightsError(f"{path} exists already. Use --overwrite, or another name.")
    if path := replaced(filter(None, (output, onnx)), files_of(source)):
        raise WeightsError(f"{path} is what is exported: it would be replaced. Give another name.")
    model = load_source(source, network)
    if onnx is not None:
        crop = model.card.recipe["data"]["crop"]
        side = size or crop
        difference = export_onnx(model, onnx, tuple(side) if isinstance(side, list) else (side, side))
        click.echo(f"wrote {onnx}: differs from PyTorch by at most {difference:.1e} on a random input")
    save_weights(output, model.network, model.card)
    click.echo(f"wrote {output}: {network} of step {model.card.step}, {len(model.classes)} classes")
