"""Folds for cross-validation, drawn by patient."""

from collections.abc import Sequence

from farcluss.data.base import Item
from farcluss.data.splits import hash_order
from farcluss.errors import DataError
from farcluss_medical.cases import Case


def draw_folds(cases: Sequence[Case], count: int, seed: int) -> list[list[str]]:
    """The ids of the held-out cases of each fold: each case in one fold, all cases of a patient in the same.

    Patients are dealt, in the order of a seeded hash, to the fold with the fewest cases; the order of the cases does
    not matter.

    Raises:
        DataError: there are fewer patients than folds, or less than two folds.
    """
    units = hash_order([Item(c.id, c.images[0], c.label, c.patient) for c in cases], seed, "folds")
    if not 2 <= count <= len(units):
        raise DataError(
            f"{count} folds of {len(units)} patients with a label: choose from 2 to the number of patients."
        )
    folds: list[list[str]] = [[] for _ in range(count)]
    for unit in units:
        min(folds, key=len).extend(item.id for item in unit)
    return [sorted(fold) for fold in folds]


def fold_files(folds: Sequence[Sequence[str]]) -> dict[str, object]:
    """Content of files by name: per fold a list of cases to train on and one of those to score, and nnU-Net's file."""
    everything = sorted(case for fold in folds for case in fold)
    files: dict[str, object] = {}
    splits = []
    for number, held in enumerate(folds):
        train = sorted(set(everything) - set(held))
        splits.append({"train": train, "val": list(held)})
        files[f"fold_{number}_train.txt"] = "".join(f"{case}\n" for case in train)
        files[f"fold_{number}_val.txt"] = "".join(f"{case}\n" for case in held)
    return {**files, "splits_final.json": splits}
