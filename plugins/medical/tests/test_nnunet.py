"""nnU-Net: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import json

import numpy as np
import pytest
from phantoms import Phantom, write_channels
from volume_data import SMALL, UnitTester, build, image, label, pairs, phantom, problems, refused

from farcluss_medical.nnunet import nnunet

FACTS = {"channel_names": {"0": "FLAIR", "1": "T1"}, "labels": {"background": 0, "ET": 3, "ED": 2, "NCR": 1},
         "numTraining": 3, "file_ending": ".nii.gz"}  # fmt: skip


def numbered(root, name, seed, channels=2):
    paths = [root / f"{name}_{n:04d}.nii.gz" for n in range(channels)]
    write_channels(paths, Phantom(seed, channels, extent=SMALL).scan(), unit=True)


def draw_nnunet(root, labels=None):
    for seed in range(3):
        numbered(root / "imagesTr", f"BRATS_{seed}", seed)
        label(root / f"labelsTr/BRATS_{seed}.nii.gz", seed, "2023")
    numbered(root / "imagesTs", "BRATS_8", 8)
    numbered(root / "imagesTs", "BRATS_9", 9)
    label(root / "labelsTs/BRATS_9.nii.gz", 9, "2023")
    numbered(root / "imagesUn", "more", 7)
    facts = FACTS if labels is None else {**FACTS, "labels": labels}
    (root / "dataset.json").write_text(json.dumps(facts))


def folds(root, *lists):
    (root / "splits_final.json").write_text(json.dumps(lists))


def test_nnunet(tmp_path):
    root = tmp_path / "root"
    draw_nnunet(root)
    dataset = build(nnunet, root, channels=2)
    expected = {f"BRATS_{n}": (f"imagesTr/BRATS_{n}_0000.nii.gz", f"labelsTr/BRATS_{n}.nii.gz") for n in range(3)}
    assert pairs(dataset) == {**expected, "more": ("imagesUn/more_0000.nii.gz", None)}
    assert pairs(dataset, "test") == {"BRATS_9": ("imagesTs/BRATS_9_0000.nii.gz", "labelsTs/BRATS_9.nii.gz")}
    assert dataset.classes == ("background", "NCR", "ED", "ET") and dataset.findings() == []
    sample = dataset.read(dataset.items("train")[1])
    scan = phantom(1, 2)
    assert np.allclose(sample.image, scan.voxels / 1000, atol=1e-6)
    assert np.array_equal(sample.mask, scan.label("2023"))


def test_nnunet_folds(tmp_path):
    root = tmp_path / "root"
    draw_nnunet(root)
    folds(root, {}, {"train": ["BRATS_2"], "val": ["BRATS_0"], "unlabeled": ["BRATS_1"]})
    dataset = build(nnunet, root, channels=2, fold=1)
    assert {name: bool(files[1]) for name, files in pairs(dataset).items()} == {
        "BRATS_2": True, "BRATS_1": False, "more": False
    }  # fmt: skip
    assert list(pairs(dataset, "val")) == ["BRATS_0"]
    assert "folds 0 to 1" in refused(build, nnunet, root, channels=2, fold=2)
    assert "lists train and val" in refused(build, nnunet, root, channels=2, fold=0)
    folds(root, {"train": ["BRATS_2", "x"], "val": ["BRATS_2"]})
    skipping = build(nnunet, root, channels=2, fold=0, data={"on_error": "skip"})
    problems(skipping, ("x of train is not in imagesTr",), ("BRATS_2", "both train and val"))
    (root / "splits_final.json").unlink()
    assert "splits_final.json does not exist" in refused(build, nnunet, root, channels=2, fold=0)


def test_nnunet_images_without_labels_are_unlabeled_on_request_only(tmp_path):
    root = tmp_path / "root"
    draw_nnunet(root)
    (root / "labelsTr/BRATS_1.nii.gz").unlink()
    dataset = build(nnunet, root, channels=2, data={"on_error": "skip"})
    problems(dataset, ("BRATS_1_0000.nii.gz has no label", 'data.layout.unlabeled = "imagesTr"'))
    assert list(pairs(dataset)) == ["BRATS_0", "BRATS_2", "more"]
    allowed = build(nnunet, root, channels=2, unlabeled="imagesTr")
    assert pairs(allowed)["BRATS_1"][1] is None and allowed.findings() == [] and "more" not in pairs(allowed)
    folds(root, {"train": ["BRATS_0"], "val": ["BRATS_2"], "unlabeled": ["BRATS_1"]})
    assert build(nnunet, root, channels=2, fold=0).findings() == []


def test_nnunet_names_what_is_missing(tmp_path):
    root = tmp_path / "root"
    draw_nnunet(root)
    (root / "imagesTr/BRATS_1_0001.nii.gz").unlink()
    (root / "imagesUn/more_0000.nii.gz").unlink()
    numbered(root / "imagesTr", "BRATS_0", 0, channels=3)
    image(root / "imagesTr/odd.nii.gz")
    label(root / "labelsTr/BRATS_5.nii.gz")
    dataset = build(nnunet, root, channels=2, data={"on_error": "skip"})
    problems(
        dataset, ("imagesTr/BRATS_1_0001.nii.gz does not exist",), ("imagesUn/more_0000.nii.gz does not exist",),
        ("BRATS_0_0000", "3 channels", "data.channels is 2"), ("imagesTr/odd.nii.gz", "CASE_0000"),
        ("labelsTr/BRATS_5.nii.gz has no image",),
    )  # fmt: skip
    assert list(pairs(dataset)) == ["BRATS_2"]


def test_nnunet_regions(tmp_path):
    root = tmp_path / "root"
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing": [3]}
    draw_nnunet(root, labels)
    text = refused(build, nnunet, root, channels=2)
    assert "'whole tumor' and 'tumor core'" in text and "data.classes" in text
    own = {"background": 0, "edema": 2, "core": [1, 3]}
    assert build(nnunet, root, channels=2, classes=own).classes == tuple(own)
    draw_nnunet(root, {"background": [0], "core": [1, 3], "edema": 2})
    dataset = build(nnunet, root, channels=2)
    mask = dataset.read(dataset.items("train")[0]).mask
    assert np.array_equal(mask, np.array([0, 1, 2, 1])[phantom(0).label("2023")])


def test_nnunet_ignore_label(tmp_path):
    root = tmp_path / "root"
    draw_nnunet(root, {"background": 0, "ED": 2, "ET": 3, "ignore": 1})
    assert "data.ignore_index = 1" in refused(build, nnunet, root, channels=2)
    dataset = build(nnunet, root, channels=2, data={"ignore_index": 1})
    assert dataset.classes == ("background", "ED", "ET")
    assert np.array_equal(dataset.read(dataset.items("train")[0]).mask == 255, phantom(0).label("2023") == 1)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({**FACTS, "file_ending": ".png"}, "convert"),
        ({**FACTS, "channel_names": None}, "nnU-Net v2"),
        ({**FACTS, "labels": {"0": "background"}}, "labels must be like"),
        ({**FACTS, "channel_names": {"0": "T1"}}, "1 channels (T1), but data.channels is 2"),
    ],
)
def test_nnunet_facts_that_are_none(tmp_path, facts, word):
    draw_nnunet(tmp_path / "root")
    (tmp_path / "root/dataset.json").write_text(json.dumps(facts))
    assert word in refused(build, nnunet, tmp_path / "root", channels=2)


def test_nnunet_without_images(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(FACTS))
    assert "imagesTr has no images" in refused(build, nnunet, tmp_path, channels=2)
    draw_nnunet(tmp_path / "root")
    assert "data.layout.unlabeled" in refused(build, nnunet, tmp_path / "root", channels=2, unlabeled="x")


class TestNnunet(UnitTester):
    dataset = nnunet
    channels = 2
    splits = ("train", "test")

    def draw(self, root):
        draw_nnunet(root, {"background": 0, "tumor": [1, 2, 3]})

    @pytest.fixture(autouse=True)
    def _own_classes(self, _files):
        self.data = self.data.model_copy(update={"classes": None})
