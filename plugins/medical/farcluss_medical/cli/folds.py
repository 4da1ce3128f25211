"""`farcluss medical folds`."""

from pathlib import Path

import click

from farcluss.cli.commands import GivenRecipe, output_option, print_table, recipe_options, write_results

EXAMPLES = """\b
Example:
  farcluss medical folds scans.toml -o folds
  farcluss run scans.toml --set data.labeled=folds/fold_0_train.txt --set data.val=folds/fold_0_val.txt
"""


@click.command(epilog=EXAMPLES)
@recipe_options
@click.option("--folds", "count", type=click.IntRange(min=2), default=5, show_default=True, help="Number of folds.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws other folds.")
@output_option("folds", folder=True, help="Folder to write.")
def command(recipe: GivenRecipe, count: int, seed: int, output: Path) -> None:
    """Divide the labeled training cases of RECIPE into folds for cross-validation, all cases of a patient in one.

    Writes per fold a list for data.labeled and one for data.val, and all of them as nnU-Net's splits_final.json.
    """
    loaded = recipe.read()
    from farcluss.errors import DataError
    from farcluss_medical.fingerprint import volumes_of
    from farcluss_medical.folds import draw_folds, fold_files

    dataset = volumes_of(loaded.data)
    cases = [dataset.find(item)[0] for item in dataset.items("train") if item.mask]
    labeled = {case.id: case for case in cases}  # slices of a case are one
    folds = draw_folds(list(labeled.values()), count, seed)
    files = fold_files(folds)
    if taken := [name for name in files if (output / name).exists()]:
        raise DataError(f"{output / taken[0]} exists already. Give another --output, or delete it.")
    write_results(output, files)
    patients = [str(len({labeled[case].patient for case in held})) for held in folds]
    rows = [(str(n), str(len(labeled) - len(held)), str(len(held)), patients[n]) for n, held in enumerate(folds)]
    print_table(("fold", "train", "val", "patients in val"), rows, numbers=("train", "val", "patients in val"))
