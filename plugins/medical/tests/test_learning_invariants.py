"""What must hold of training on scans, in runs of a few steps: honest scores, resuming, no leak, whole weights."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
import torch
from commandline import cli
from phantoms import Phantom, write_decathlon, write_hdf5, write_nifti

from farcluss import load_recipe, train
from farcluss.recipes.reading import recipe_folder
from farcluss.runs import checkpoints
from farcluss.training import engine

STEPS = 4
EXTENT = (20.0, 24.0, 16.0)
COMMON = [
    "data.workers=0",
    "eval.mode=whole",
    "loss.warmup_steps=1",
    "loss.ramp_steps=0",
    "train.batch=2",
    "train.ema=0.5",
    "train.log_every=1",
    f"train.steps={STEPS}",
    "train.checkpoint_every=2",
]
UNET = [
    "network.name=monai",
    "network.architecture=UNet",
    "network.arguments={channels=[4, 8, 8], strides=[2, 2], num_res_units=1}",
    "network.embed_stride=2",
]
DEEPLAB = ["network.encoder=test_resnet", "network.aspp_channels=8", "network.head_channels=8"]
VOLUMES = [*COMMON, *UNET, "data.crop=[16, 16, 8]"]
SLICES = [*COMMON, *UNET, "data.crop=[16, 16]", "network.spatial_dims=2"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A Decathlon folder in mixed geometries; a labeled case has no tumor, and two have no label."""
    root = tmp_path_factory.mktemp("decathlon") / "scans"
    write_decathlon(root, 4, 2, 3, geometries=("ras", "lps", "oblique", "anisotropic"), extent=EXTENT, tumorless=(1,))
    return root


def of(root, folder, settings):
    """Settings for a tree, with a cache of its own."""
    return [*settings, f"data.root={root}", f"data.layout.cache={folder / 'cache'}"]


def teach(name, root, folder, settings, **options):
    """Train in this process; the run's directory."""
    return train(load_recipe(name, settings=of(root, folder, settings)), folder / "run", **options)


def state(run):
    return checkpoints.read(run / "checkpoints" / f"step-{STEPS:08d}.pt").state


def called(*words):
    result = cli(*words)
    assert result.code == 0, result
    return result


def settings_of(words):
    return [part for word in words for part in ("--set", word)]


def same(one, two):
    """Whether two runs ended with the same bits of networks, optimizer and stages."""
    try:
        torch.testing.assert_close(state(one), state(two), rtol=0, atol=0)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "settings"),
    [("medical_tumor3d", VOLUMES), pytest.param("medical_tumor2d", SLICES, marks=pytest.mark.slow)],
)
def test_scores_are_those_of_the_written_files(name, settings, scans, tmp_path):
    """Dice of `medical evaluate`, and IoU of `eval`, by nothing but nibabel and NumPy."""
    settings = [*settings, "train.steps=24", "train.lr=0.05", "train.checkpoint_every=99", "data.val=val"]
    called("run", name, "-o", tmp_path / "run", *settings_of(of(scans, tmp_path, settings)))
    weights = tmp_path / "run" / "weights" / "last.safetensors"
    entries = json.loads((scans / "dataset.json").read_text())["validation"]
    called("predict", weights, *(scans / entry["image"] for entry in entries), "-o", tmp_path / "masks")
    cases, fractions = [], np.zeros((4, 2))
    for entry in entries:
        truth, mask = scans / entry["label"], tmp_path / "masks" / entry["image"].rpartition("/")[2]
        told = json.loads(called("medical", "evaluate", truth, mask, "--labels", "1,2,3", "--json").out)["classes"]
        true, found = (np.asarray(nibabel.load(path).dataobj) for path in (truth, mask))
        for label in range(4):
            both, either = ((true == label) & (found == label)).sum(), ((true == label) | (found == label)).sum()
            fractions[label] += both, either
            if label:
                cases.append((told[label - 1]["dice"]["mean"], 2 * both / (both + either)))
    told, computed = np.array(cases, np.float64).T
    assert len(cases) == 9 and np.abs(told - computed).max() < 1e-12
    assert ((computed > 0.05) & (computed < 0.95)).sum() >= 2, computed
    scored = json.loads(called("eval", weights, "--json", "--workers", 0).out)
    assert scored["miou"] == pytest.approx((fractions[:, 0] / fractions[:, 1]).mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("medical_tumor3d", VOLUMES),
        pytest.param("medical_tumor2d", [*COMMON, *DEEPLAB, "data.crop=[16, 16]"], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_interrupted_ends_in_the_same_bits(name, settings, scans, tmp_path, monkeypatch):
    settings = [*settings, "data.val=1/4"]
    whole = teach(name, scans, tmp_path / "whole", settings)

    def one_step(run, *arguments, original=engine.one_step):
        if run.step == 3:
            raise RuntimeError("the power fails")
        return original(run, *arguments)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the power fails"):
        patch.setattr(engine, "one_step", one_step)
        teach(name, scans, tmp_path / "part", settings)
    part = tmp_path / "part" / "run"
    assert {path.stem for path in (part / "checkpoints").iterdir()} == {"step-00000002"}
    elsewhere = load_recipe(
        name, settings=of(scans, tmp_path / "elsewhere", settings)
    )  # another cache, as on a cluster
    train(elsewhere, part, resume="newest")
    assert same(whole, part)


@pytest.mark.parametrize("dimensions", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_labels_of_unlabeled_cases_are_never_read(dimensions, tmp_path):
    """With nonsense of another shape in their place, training gives the same bits; the labels of the others count."""
    root, cases = tmp_path / "scans", [f"case{number}" for number in range(6)]
    for number, case in enumerate(cases):
        write_hdf5(root / "data" / f"{case}.h5", Phantom(number, extent=EXTENT).scan(), "2018-2022", unit=True)
    (root / "train.list").write_text("\n".join(cases[:5]))
    (root / "val.list").write_text(cases[5])
    name, settings = ("medical_brats19_wt_10", VOLUMES) if dimensions == 3 else ("medical_acdc_3", SLICES)
    classes = "data.classes={background=0, tumor=[1, 2, 4]}"
    settings = [*settings, classes, "data.layout.labeled_first=2", f"eval.every={STEPS}"]
    first = teach(name, root, tmp_path / "first", settings)
    for case in cases[2:5]:
        replace_label(root / "data" / f"{case}.h5", np.random.default_rng(0).normal(size=(3, 5)))
    assert same(first, teach(name, root, tmp_path / "second", settings))
    turned = Phantom(7, extent=EXTENT).scan().label("2018-2022")
    for case in cases[:2]:
        replace_label(root / "data" / f"{case}.h5", turned)
    assert not same(first, teach(name, root, tmp_path / "third", settings))


def replace_label(path, values):
    with h5py.File(path, "r+") as file:
        del file["label"]
        file["label"] = values


def test_labels_that_a_share_leaves_out_are_for_diagnostics_alone(tmp_path):
    """Other labels in their place are seen by the diagnostics of each step, and change no bit of what is learned."""
    root, settings = tmp_path / "scans", [*VOLUMES, "data.labeled=1/2", "data.val=val"]
    drawn = write_decathlon(root, 6, 0, 1, geometries=("ras", "lps"), extent=EXTENT)
    first = teach("medical_tumor3d", root, tmp_path / "first", settings)
    labeled = (first / "lists" / "labeled.txt").read_text()
    others = [case for case in drawn if case not in labeled]
    assert len(others) == 4  # and one of them is of the validation
    for case in others[:3]:
        scan = drawn[case]
        write_nifti(root / f"labels/{case}.nii.gz", (scan.label("decathlon") + 1) % 4, scan.affine)
    second = teach("medical_tumor3d", root, tmp_path / "second", settings)
    assert same(first, second)
    assert (first / "lists/labeled.txt").read_text() == (second / "lists/labeled.txt").read_text()
    told = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (first, second)]
    rights = [[line.get("pseudo_label_accuracy") for line in lines if line["kind"] == "train"] for lines in told]
    assert rights[0] != rights[1], told


def test_the_weights_file_alone_predicts(scans, tmp_path, monkeypatch):
    """Without recipe, data set, fingerprint and cache, from an empty folder, to the same bits."""
    root, facts = tmp_path / "scans", tmp_path / "fingerprint.json"
    shutil.copytree(scans, root)
    settings = of(root, tmp_path, [*VOLUMES, "data.val=val", "eval.mode=sliding"])
    called("medical", "fingerprint", "medical_tumor3d", "-o", facts, *settings_of(settings))
    settings += ["data.layout.normalize=ct", "data.layout.spacing=fingerprint", f"data.layout.fingerprint={facts}"]
    called("run", "medical_tumor3d", "-o", tmp_path / "run", *settings_of(settings))
    image = shutil.copy(root / "images" / "case_006.nii.gz", tmp_path / "scan.nii.gz")
    weights = shutil.copy(tmp_path / "run" / "weights" / "last.safetensors", tmp_path / "mine.safetensors")
    called("predict", weights, image, "-o", tmp_path / "before", "--probs")
    for path in (root, tmp_path / "run", tmp_path / "cache"):
        shutil.rmtree(path)
    facts.unlink()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    called("predict", weights, image, "-o", tmp_path / "after", "--probs")
    assert list((tmp_path / "empty").iterdir()) == []
    for name in ("scan.nii.gz", "scan_probs.nii.gz"):
        before, after = (nibabel.load(tmp_path / folder / name) for folder in ("before", "after"))
        assert np.array_equal(before.dataobj, after.dataobj) and np.array_equal(before.affine, after.affine)
    assert before.shape == (*nibabel.load(image).shape, 4) and np.asarray(before.dataobj).std() > 0


FLAT = ("augseg", "imas")
"""Methods whose strong view is one of RGB images."""
QUICK = ("augseg", "daw", "unimatch_v2")
METHODS = [
    pytest.param(path.stem, marks=[] if path.stem in QUICK else [pytest.mark.slow])
    for path in sorted((recipe_folder() / "methods").glob("*.toml"))
]


@pytest.mark.parametrize("method", METHODS)
def test_methods_train_on_volumes_or_say_why_not(method, scans, tmp_path):
    settings = of(scans, tmp_path, [*VOLUMES, "data.val=1/4", "loss.warmup_steps=0"])
    words = ["medical_tumor3d", "--with", method, *settings_of(settings)]
    if method in FLAT:
        result = cli("check", *words)
        assert result.code == 1 and result.err.count("\n") == 2 and 'Set stages.augment = "intensity"' in result.err
        if method == "imas":
            return  # nothing of it would be left
        words += ["--set", "stages.augment=intensity"]
    called("run", *words, "-o", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["supervised"], line.get("unsupervised", 0.0)] for line in lines if line["kind"] == "train"]
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert np.ptp([first for first, _ in losses]) > 0 and (method == "supervised" or max(np.array(losses)[:, 1]) > 0)
