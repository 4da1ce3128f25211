"""`farcluss medical fingerprint`."""

from pathlib import Path
from typing import Any

import click

from farcluss.cli.commands import GivenRecipe, output_option, recipe_options, write_result


@click.command(epilog="Example: farcluss medical fingerprint ct.toml --set data.root=/data/ct -o fingerprint.json")
@recipe_options
@output_option("fingerprint.json", help="File to write.")
def command(recipe: GivenRecipe, output: Path) -> None:
    """Measure the training cases of RECIPE: spacing, crop, and intensities of labeled foreground.

    Validation and test cases are never read, and only the headers of unlabeled cases.
    """
    loaded = recipe.read()
    from farcluss_medical.fingerprint import fingerprint, to_text, training_cases, volumes_of

    dataset = volumes_of(loaded.data)
    labeled, unlabeled = training_cases(dataset, loaded.data)
    with click.progressbar(labeled, label=f"reading {len(labeled)} labeled cases") as bar:
        facts = fingerprint(dataset, bar, unlabeled)
    write_result(output, to_text(facts))
    _report(facts, output, "right, anterior, superior" if len(facts["spacing"]) == 3 else "as in the files")


def _report(facts: dict[str, Any], output: Path, order: str) -> None:
    click.echo(f"wrote {output}: {facts['labeled']} labeled and {facts['unlabeled']} unlabeled cases")
    click.echo(f"axes         {order}")
    click.echo(f"voxels       {_by(facts['median_shape'])} (median)")
    click.echo(f"spacing      {_by(facts['median_spacing'])} mm (median)")
    for number, channel in enumerate(facts["intensities"]):
        values = ", ".join(f"{key} {channel[key]:.5g}" for key in ("low", "median", "high", "mean", "std"))
        click.echo(f"foreground   {f'channel {number}: ' if len(facts['intensities']) > 1 else ''}{values}")
    total = sum(facts["class_voxels"].values())
    for name, count in facts["class_voxels"].items():
        click.echo(f"class        {name}: {count:,} voxels, {100 * count / total:.2f} %")
    click.echo("Suggestions for the recipe:")
    click.echo(f"  --set data.crop='{facts['crop']}'")
    if any(case["spacing"] != facts["spacing"] for case in facts["cases"]):
        click.echo(f"  --set data.layout.spacing='{facts['spacing']}'   so that voxels have the same size in all cases")
    click.echo(f"  --set data.layout.normalize=ct --set data.layout.fingerprint={output}   for CT")


def _by(values: list[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
