"""What `farcluss init` makes of folders of scenes: recipes that `farcluss check` passes as they stand."""

import json

import numpy as np
import pytest
import rasterio
from commandline import cli
from rasterio.transform import from_origin

from farcluss.recipes.reading import load_recipe


def scene(path, array, place=0, crs="EPSG:32633"):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": array.shape[1], "width": array.shape[2], "count": len(array),
               "dtype": array.dtype, "crs": crs, "transform": from_origin(10_000 * place, 0, 10, 10)}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)


def write(root, bands, kind, masks="labels"):
    rng = np.random.default_rng(0)
    for number in range(4):
        scene(root / "images" / f"s{number}.tif", rng.integers(1, 250, (bands, 70, 80)).astype(kind), number)
        if number < 3:
            scene(root / masks / f"s{number}.tif", rng.integers(0, 3, (1, 70, 80)).astype(np.uint8), number)


@pytest.mark.parametrize(("bands", "kind", "scaling"), [(3, np.uint8, "imagenet"), (4, np.uint16, "zscore")])
def test_scenes_and_their_bands(bands, kind, scaling, tmp_path):
    write(tmp_path / "scenes", bands, kind)
    small = ("--set", "network.encoder=test_resnet", "--set", "network.pretrained=false", "--set", "data.workers=0")
    found = cli("init", tmp_path / "scenes", "-o", tmp_path / "out", "--yes", *small)
    assert found.code == 0, found
    recipe = load_recipe(tmp_path / "out" / "scenes.toml")
    assert recipe.data.layout.options["scaling"] == scaling and recipe.data.crop == 65
    assert recipe.data.classes == {"class 0": 0, "class 1": 1, "class 2": 2}
    assert "3 with a mask, 1 without" in found.out
    checked = cli("check", tmp_path / "out" / "scenes.toml", "--no-step")
    assert checked.code == 0, checked
    if scaling == "zscore":
        measured = json.loads((tmp_path / "out" / "stats.json").read_text())
        values = [rasterio.open(tmp_path / "scenes" / "images" / f"s{n}.tif").read() for n in range(4)]
        means = np.concatenate([each.reshape(bands, -1) for each in values], 1).mean(1)
        np.testing.assert_allclose([band["mean"] for band in measured["bands"]], means, rtol=1e-6)


def test_pictures_without_coordinates_are_left_to_others(tmp_path):
    write(tmp_path / "scenes", 3, np.uint8)
    for path in (tmp_path / "scenes" / "images").iterdir():
        with rasterio.open(path) as file:
            array = file.read()
        scene(path, array, crs=None)
    found = cli("init", tmp_path / "scenes", "-o", tmp_path, "--yes")
    assert load_recipe(tmp_path / "scenes.toml").data.layout.name == "folder", found
