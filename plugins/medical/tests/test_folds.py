"""`farcluss medical folds`: every case is held out once, no patient is divided, and training reads the lists."""

import json
from collections import Counter

import pytest
from commandline import cli
from small_scans import Scans, draw

from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss.recipes.reading import load_recipe
from farcluss_medical.cases import Case
from farcluss_medical.fingerprint import volumes_of
from farcluss_medical.folds import draw_folds


@pytest.mark.parametrize(("patients", "count"), [(5, 5), (23, 4), (9, 2)])
def test_each_case_is_held_out_once_and_no_patient_is_divided(patients, count):
    cases = [Case(f"{n}-{k}", (f"{n}-{k}.nii",), "x", f"p{n}") for n in range(patients) for k in range(1 + n % 3)]
    folds = draw_folds(cases, count, 0)
    assert Counter(case for fold in folds for case in fold) == Counter(case.id for case in cases)
    owners = [{case.partition("-")[0] for case in fold} for fold in folds]
    assert sum(map(len, owners)) == patients and max(map(len, folds)) - min(map(len, folds)) <= 3
    assert folds == draw_folds(cases[::-1], count, 0), "whatever the order"
    assert folds != draw_folds(cases, count, 1)
    with pytest.raises(DataError, match=f"{patients + 1} folds of {patients} patients"):
        draw_folds(cases, patients + 1, 0)


@pytest.mark.parametrize("settings", [[], ["data.layout.dimensions=2", "data.crop=[4, 4]"]])
def test_training_reads_the_lists(tmp_path, settings):
    shape = (9, 8, 7)
    made = {f"c{n}": draw(n, shape) for n in range(5)}
    recipe = Scans(tmp_path / "set", made, {"u": draw(9, shape, labeled=False)}).write()
    words = [word for setting in settings for word in ("--set", setting)]
    result = cli("medical", "folds", recipe, "--folds", 2, "-o", tmp_path / "folds", *words)
    assert result.code == 0 and "patients in val" in result.out, result
    splits = json.loads((tmp_path / "folds/splits_final.json").read_text())
    for number, fold in enumerate(splits):
        lists = [
            f"data.{key}={tmp_path}/folds/fold_{number}_{end}.txt"
            for key, end in (("labeled", "train"), ("val", "val"))
        ]
        data = load_recipe(recipe, settings=[*settings, *lists]).data
        found = resolve(volumes_of(data), data)
        names = [{item.group for item in items} for items in (found.labeled, found.val, found.unlabeled)]
        assert names == [set(fold["train"]), set(fold["val"]), {"u"}]
    again = cli("medical", "folds", recipe, "--folds", 2, "-o", tmp_path / "folds", *words)
    assert again.code == 1 and "exists already" in again.err
