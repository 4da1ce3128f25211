"""What must hold of training on scenes, in runs of a few steps: invalid pixels and foreign labels change no bit."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from commandline import cli
from drawn_scenes import CLASSES, Drawing, draw_tree
from registered import registered
from tiny_network import TinyNetwork

from farcluss import load_recipe, train
from farcluss.runs import checkpoints

STEPS = 4
SETTINGS = [
    'data.layout={name="rasters", scaling="scale", factor=1.0, stats=""}',
    "data.labeled=s0.txt",
    "data.unlabeled=s23.txt",
    "data.val=s1.txt",
    "data.channels=5",
    "data.mean=0.4",
    "data.std=0.2",
    "data.crop=33",
    f"data.classes={json.dumps(dict(zip(CLASSES, range(1, 5), strict=True)))}".replace(":", " ="),
    "data.ignore_index=0",
    "data.workers=0",
    "network.name=tiny",
    "network.norm=true",
    "network.pretrained=false",
    "loss.ramp_steps=0",
    "train.batch=2",
    "train.ema=0.5",
    "train.log_every=1",
    f"train.steps={STEPS}",
    f"train.checkpoint_every={STEPS}",
    "stages.contrast.confidence=0.2",
]
DRAWING = Drawing(dtype="float32", collar=17)
TIMES = ("seconds", "memory_gib", "images_per_second")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with registered("network", "tiny", TinyNetwork):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four scenes with invalid pixels, two of them labeled, and lists that say which is what."""
    root = draw_tree(tmp_path_factory.mktemp("scenes") / "tree", DRAWING, labeled=2, unlabeled=2)
    for name, scenes in (("s0", "s0"), ("s1", "s1"), ("s23", "s2\ns3")):
        (root / f"{name}.txt").write_text(scenes)
    return root


def teach(root, folder):
    """Train in this process; what is left of it: state, lines of metrics, weights' bytes but for their card."""
    run = train(load_recipe("rs_geotiff", settings=[*SETTINGS, f"data.root={root}"]), folder)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]
    return checkpoints.read(run / "checkpoints" / f"step-{STEPS:08d}.pt").state, kept, run


@pytest.fixture(scope="module")
def usual(root, tmp_path_factory):
    return teach(root, tmp_path_factory.mktemp("usual") / "run")


def assert_same(one, two):
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=0)
    assert [line for line in one[1] if "time" not in line] == [line for line in two[1] if "time" not in line]


def changed(root, folder, change, names):
    """A copy of a tree, `change` made to the values `(C, H, W)` of some files."""
    copy = shutil.copytree(root, folder / "tree")
    for name in names:
        with rasterio.open(copy / name, "r+") as file:
            file.write(change(file.read()))
    return copy


SCENES = [f"images/s{number}.tif" for number in range(4)]


def poisoned(values, bands):
    """Values whose invalid pixels are not finite in the first `bands` bands, and wild in the others."""
    rng, count = np.random.default_rng(0), int(DRAWING.invalid().sum())
    values[:, DRAWING.invalid()] = rng.choice(np.array([1e30, -1e30, 0, 3], np.float32), (len(values), count))
    # Each pixel has one of them, so that none of them hides what another would do.
    values[:bands, DRAWING.invalid()] = rng.choice([np.inf, -np.inf, np.nan], count)
    return values


@pytest.mark.parametrize("bands", [5, 1])
def test_what_invalid_pixels_hold_changes_no_bit(root, usual, tmp_path, bands):
    copy = changed(root, tmp_path, partial(poisoned, bands=bands), SCENES)
    assert_same(teach(copy, tmp_path / "run"), usual)


def test_what_invalid_pixels_hold_changes_no_map(root, usual, tmp_path):
    weights = str(usual[2] / "weights" / "last.safetensors")
    copy = changed(root, tmp_path, partial(poisoned, bands=1), SCENES)
    for name, tree in (("usual", root), ("poisoned", copy)):
        out = ["-o", str(tmp_path / name), "--probs", "--entropy", "--set", "cog=false"]
        assert cli("predict", weights, str(tree / "images"), *out).code == 0
    for path in sorted((tmp_path / "usual").glob("*.tif")):
        with rasterio.open(path) as one, rasterio.open(tmp_path / "poisoned" / path.name) as other:
            np.testing.assert_array_equal(one.read(), other.read())
            assert (one.read_masks(1) == 0).tolist() == DRAWING.invalid().tolist()


def test_labels_of_invalid_pixels_change_no_bit(root, usual, tmp_path):
    def change(values):
        return np.where(DRAWING.invalid(), 3, values)

    labels = ["labels/s0.tif", "labels/s1.tif"]
    assert_same(teach(changed(root, tmp_path, change, labels), tmp_path / "run"), usual)


def test_valid_pixels_do_change_the_training(root, usual, tmp_path):
    def change(values):
        values[:, ~DRAWING.invalid()] *= 1.01
        return values

    with pytest.raises(AssertionError):
        assert_same(teach(changed(root, tmp_path, change, SCENES), tmp_path / "run"), usual)


def test_labels_of_unlabeled_scenes_change_no_bit(root, usual, tmp_path):
    copy = shutil.copytree(root, tmp_path / "tree")
    shutil.copy(copy / "labels/s0.tif", copy / "labels/s2.tif")
    with rasterio.open(copy / "images/s2.tif") as scene, rasterio.open(copy / "labels/s2.tif", "r+") as label:
        label.transform = scene.transform
    found = teach(copy, tmp_path / "run")
    torch.testing.assert_close(found[0], usual[0], rtol=0, atol=0)
