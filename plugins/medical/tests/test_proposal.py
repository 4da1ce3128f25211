"""What `farcluss init` makes of folders of volumes: recipes that `farcluss check` passes as they stand."""

import json

import nibabel
import numpy as np
import pytest
from commandline import cli

from farcluss.recipes.reading import load_recipe


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The cache of volumes is below the working directory."""
    monkeypatch.chdir(tmp_path)


def volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def write(root, images="images", labels="labels", found=(0, 2), count=4, masked=3):
    rng = np.random.default_rng(0)
    for number in range(count):
        volume(root / images / f"c{number}.nii.gz", rng.normal(100, 20, (34, 36, 20)).astype(np.float32))
        if number < masked:
            mask = rng.choice(found, (34, 36, 20)).astype(np.uint8)
            volume(root / labels / f"c{number}.nii.gz", mask)


def begun(root, folder):
    found = cli("init", root, "-o", folder, "--yes", "--set", "data.workers=0")
    assert found.code == 0, found
    checked = cli("check", folder / f"{root.name}.toml", "--no-step")
    assert checked.code == 0, checked
    return load_recipe(folder / f"{root.name}.toml"), found.out


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("image", "label"), ("images", "masks")])
def test_folders_of_images_and_labels(images, labels, tmp_path):
    write(tmp_path / "scans", images, labels)
    recipe, told = begun(tmp_path / "scans", tmp_path)
    assert recipe.data.layout.name == "scans" and recipe.data.classes == {"background": 0, "class 2": 2}
    assert recipe.data.crop == [32, 32, 16] and "3 with a mask, 1 without" in told
    assert recipe.stages.rebalance.name == "uniform" and (tmp_path / "base" / "volumes.toml").is_file()


def test_a_datalist(tmp_path):
    root = tmp_path / "task"
    write(root)
    cases = [{"image": f"images/c{n}.nii.gz", "label": f"labels/c{n}.nii.gz"} for n in range(3)]
    facts = {"labels": {"0": "background", "2": "tumor"}, "training": cases, "unlabeled": ["images/c3.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(facts))
    recipe, told = begun(root, tmp_path)
    assert recipe.data.layout.name == "decathlon" and "classes: background, tumor" in told


def test_files_without_a_partner_are_left_out_and_named(tmp_path):
    root = tmp_path / "scans"
    write(root)
    (root / "images" / "c1.nii.gz").unlink()
    recipe, told = begun(root, tmp_path)
    assert recipe.data.on_error == "skip" and "c1.nii.gz has no image" in told


def test_other_folders_are_left_to_others(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images" in cli("init", tmp_path / "empty", "-o", tmp_path).refusal
    volume(tmp_path / "loose" / "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
    assert "no images" in cli("init", tmp_path / "loose", "-o", tmp_path).refusal
