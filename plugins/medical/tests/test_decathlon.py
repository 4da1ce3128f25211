"""Decathlon: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import json

import numpy as np
import pytest
from phantoms import write_channels, write_decathlon
from volume_data import BINARY, SMALL, build, groups, image, label, pairs, phantom, problems, refused

from farcluss_medical.layouts import decathlon


def change(root, function):
    file = root / "dataset.json"
    facts = json.loads(file.read_text())
    function(facts)
    file.write_text(json.dumps(facts))


def test_decathlon(tmp_path):
    root = tmp_path / "root"
    drawn = write_decathlon(root, 2, 1, 1, 1, channels=2, extent=SMALL)
    dataset = build(decathlon, root, channels=2)
    assert pairs(dataset) == {
        "case_000": ("images/case_000.nii.gz", "labels/case_000.nii.gz"),
        "case_001": ("images/case_001.nii.gz", "labels/case_001.nii.gz"),
        "case_002": ("images/case_002.nii.gz", None),
    }
    assert list(pairs(dataset, "val")) == ["case_003"] and list(pairs(dataset, "test")) == ["case_004"]
    assert dataset.classes == ("background", "edema", "necrosis", "enhancing") and dataset.findings() == []
    for item in [*dataset.items("train"), *dataset.items("test")]:
        sample, scan = dataset.read(item), drawn[item.id]
        assert np.array_equal(sample.image, scan.voxels) and sample.image.dtype == np.float32
        assert dataset.size(item) == scan.tissue.shape
        assert sample.mask is None if item.mask is None else np.array_equal(sample.mask, scan.label("decathlon"))


def test_decathlon_with_channels_in_files_groups_and_labels_of_test_images(tmp_path):
    root = tmp_path / "root"
    for seed in (0, 1):
        write_channels([root / f"imagesTr/{seed}_{c}.nii" for c in "ab"], phantom(seed, 2))
        label(root / f"labelsTr/{seed}.nii", seed)
    image(root / "imagesTs/2.nii.gz", 2, 2)
    image(root / "imagesTs/3.nii.gz", 3, 2)
    label(root / "labelsTs/3.nii.gz", 3)
    entries = [
        {"image": [f"imagesTr/{n}_a.nii", f"imagesTr/{n}_b.nii"], "label": f"labelsTr/{n}.nii", "group": "P"}
        for n in (0, 1)
    ]
    facts = {"labels": {"1": "tumor", "0": "background"}, "training": entries,
             "test": ["./imagesTs/2.nii.gz", "./imagesTs/3.nii.gz"]}  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(facts))
    dataset = build(decathlon, root, channels=2)
    assert groups(dataset) == {"0_a": "P", "1_a": "P"}
    assert pairs(dataset, "test") == {"3": ("imagesTs/3.nii.gz", "labelsTs/3.nii.gz")}
    assert dataset.classes == ("background", "tumor"), "classes come in order of value"
    assert np.array_equal(dataset.read(dataset.items("train")[1]).image, phantom(1, 2).voxels)


def test_decathlon_lists_every_problem(tmp_path):
    root = tmp_path / "root"
    write_decathlon(root, 4, 1, 1, extent=SMALL)
    (root / "labels/case_001.nii.gz").unlink()

    def spoil(facts):
        del facts["training"][2]["label"]
        facts["training"] += [{"label": "x.nii.gz"}, facts["training"][0]]
        facts["validation"].append(facts["training"][3])

    change(root, spoil)
    dataset = build(decathlon, root, data={"on_error": "skip"})
    problems(
        dataset, ("labels/case_001.nii.gz", "does not exist"), ("case_002", "no label"),
        ("entry 4 of training", "no image"),
        ("case_000 occurs twice",), ("Patient case_003", "both train and val"),
    )  # fmt: skip
    found = [list(pairs(dataset, split)) for split in ("train", "val")]
    assert found == [["case_000", "case_004"], ["case_005", "case_003"]]
    text = refused(build(decathlon, root).items, "train")
    assert "entry 4 of training" in text and "And 4 more." in text and "farcluss check" in text


def test_cases_whose_files_have_one_name_are_called_by_their_folders(tmp_path):
    root = tmp_path / "root"
    for name in ("p1/t1", "p2/t1", "p3/flair"):
        image(root / f"{name}.nii.gz")
        label(root / f"{name}_seg.nii.gz")
    entries = [
        {"image": f"./{n}.nii.gz", "label": f"{n}_seg.nii.gz", "group": None} for n in ("p1/t1", "p2/t1", "p3/flair")
    ]
    (root / "dataset.json").write_text(json.dumps({"training": entries}))
    dataset = build(decathlon, root, classes=BINARY)
    assert groups(dataset) == {"p1/t1": "p1/t1", "p2/t1": "p2/t1", "flair": "flair"} and dataset.findings() == []
    assert dataset.parse("p2/t1").image == str(root / "p2/t1.nii.gz")
    slices = build(decathlon, root, classes=BINARY, dimensions=2)
    assert slices.parse("p2/t1/3").id == "p2/t1/003"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"training": 3}', "must be a list"),
        ("{", "cannot be read"),
        ("[]", "not hold a JSON object"),
        ('{"labels": {"a": "b"}}', "labels must be like"),
    ],
)
def test_a_datalist_that_is_none(tmp_path, content, word):
    (tmp_path / "dataset.json").write_text(content)
    assert word in refused(build, decathlon, tmp_path)


def test_a_datalist_with_a_byte_order_mark(tmp_path):
    """As PowerShell and editors of Windows save UTF-8."""
    write_decathlon(tmp_path, 2, 1, 1, 1, extent=SMALL)
    plain = build(decathlon, tmp_path)
    file = tmp_path / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    marked = build(decathlon, tmp_path)
    assert marked.items("train") == plain.items("train") != [] and marked.classes == plain.classes


def test_no_datalist(tmp_path):
    assert "dataset.json does not exist" in refused(build, decathlon, tmp_path)
    assert "is not a folder" in refused(build, decathlon, tmp_path / "none")
