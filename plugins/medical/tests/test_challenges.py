"""Layouts of public benchmarks: BraTS of all years, SSL4MIS, left atrium."""

import numpy as np
import pytest
from phantoms import Phantom, write_channels, write_hdf5, write_label
from volume_data import build, groups, pairs, problems, refused

from farcluss.data.splits import resolve
from farcluss.recipes.model import Data
from farcluss.testing import DatasetTester
from farcluss_medical.challenges import brats, left_atrium, ssl4mis

SMALL = (16.0, 20.0, 12.0)
BINARY = {"background": 0, "tumor": 1}
OLD, NEW = ("_", ("flair", "t1", "t1ce", "t2"), "2018-2022"), ("-", ("t2f", "t1n", "t1c", "t2w"), "2023")


def phantom(seed=0, channels=1):
    return Phantom(seed, channels, extent=SMALL).scan()


def patient(folder, seed, years=OLD, labeled=True, end=".nii.gz"):
    joint, names, edition = years
    write_channels([folder / f"{folder.name}{joint}{name}{end}" for name in names], phantom(seed, 4))
    if labeled:
        write_label(folder / f"{folder.name}{joint}seg{end}", phantom(seed), edition)


# BraTS.


def test_brats_by_grade(tmp_path):
    root = tmp_path / "root"
    patient(root / "HGG/BraTS19_2013_18_1", 0)
    patient(root / "LGG/BraTS19_TCIA10_282_1", 1, end=".nii")
    patient(root / "Validation/BraTS19_CBICA_AAM_1", 2, labeled=False)
    (root / "survival_data.csv").write_text("x")
    dataset = build(brats, root, channels=4)
    old, other = "BraTS19_2013_18_1", "BraTS19_TCIA10_282_1"
    assert pairs(dataset) == {
        old: (f"HGG/{old}/{old}_flair.nii.gz", f"HGG/{old}/{old}_seg.nii.gz"),
        other: (f"LGG/{other}/{other}_flair.nii", f"LGG/{other}/{other}_seg.nii"),
        "BraTS19_CBICA_AAM_1": ("Validation/BraTS19_CBICA_AAM_1/BraTS19_CBICA_AAM_1_flair.nii.gz", None),
    }  # fmt: skip
    assert dataset.classes == ("background", "necrosis", "edema", "enhancing") and dataset.findings() == []
    sample = dataset.read(dataset.items("train")[0])
    assert np.array_equal(sample.image, phantom(0, 4).voxels) and np.array_equal(sample.mask, phantom(0).tissue)
    assert dataset.parse(f"{old}\n") == dataset.items("train")[0]


@pytest.mark.parametrize(("years", "name"), [(OLD, "BraTS2021_00000"), (NEW, "BraTS-GLI-00005-000")])
def test_brats_flat(tmp_path, years, name):
    root = tmp_path / "root"
    patient(root / name, 3, years)
    dataset = build(brats, root, channels=4, edition=years[2])
    assert list(pairs(dataset)) == [name]
    sample = dataset.read(dataset.items("train")[0])
    assert np.array_equal(sample.image, phantom(3, 4).voxels)
    assert np.array_equal(sample.mask, phantom(3).tissue), "enhancing tumor is 4, and 3 from 2023 on"


def test_scans_of_a_patient_are_a_group_from_2023_on(tmp_path):
    for number in ("00005-000", "00005-001", "00006-000"):
        patient(tmp_path / f"root/BraTS-GLI-{number}", 0, NEW)
    dataset = build(brats, tmp_path / "root", channels=4, edition="2023")
    assert list(groups(dataset).values()) == ["BraTS-GLI-00005"] * 2 + ["BraTS-GLI-00006-000".removesuffix("-000")]
    for seed in range(8):
        data = dataset.data.model_copy(update={"val": "1/2", "draw_seed": seed})
        splits = resolve(dataset, data)
        assert not {item.group for item in splits.labeled} & {item.group for item in splits.val}


def test_brats_modalities(tmp_path):
    root = tmp_path / "root"
    patient(root / "X", 0)
    for names in (["flair"], ["t2", "t1"]):
        dataset = build(brats, root, channels=len(names), modalities=names)
        wanted = phantom(0, 4).voxels[[OLD[1].index(name) for name in names]]
        assert np.array_equal(dataset.read(dataset.items("train")[0]).image, wanted)
    assert "edition 2018-2022 has flair" in refused(build, brats, root, modalities=["t2f"])
    text = refused(build, brats, root, channels=3)
    assert "4 channels (flair, t1, t1ce, t2)" in text and "data.channels is 3" in text


@pytest.mark.parametrize(("years", "name"), [(OLD, "BraTS_1"), (NEW, "BraTS-GLI-00005-000")])
def test_brats_weights_know_the_files_of_a_case(tmp_path, years, name):
    """Without an option `modalities`, too: predictions group the files of a folder by it."""
    _, names, edition = years
    patient(tmp_path / "root" / name, 0, years)
    carried = build(brats, tmp_path / "root", channels=4, edition=edition).carried
    assert carried.layout.options["modalities"] == list(names)


def test_brats_names_missing_files(tmp_path):
    root = tmp_path / "root"
    for name in "AB":
        patient(root / name, 0)
    (root / "A/A_t1ce.nii.gz").unlink()
    dataset = build(brats, root, channels=4, data={"on_error": "skip"})
    problems(dataset, ("A/A_t1ce.nii.gz does not exist", "case A"))
    assert list(pairs(dataset)) == ["B"]
    assert build(brats, root, channels=1, modalities=["t1"]).findings() == [], "what is not used may lack"
    patient(root / "HGG/B", 0)
    problems(build(brats, root, channels=1, modalities=["t1"]), ("Case B occurs twice", "HGG/B/B_t1"))


def test_brats_of_another_edition(tmp_path):
    patient(tmp_path / "root/BraTS-GLI-00005-000", 0, NEW)
    assert "data.layout.edition" in refused(build, brats, tmp_path / "root", channels=4)


def test_brats_lists_have_ids(tmp_path):
    root = tmp_path / "root"
    for seed, name in enumerate("ABCD"):
        patient(root / f"HGG/{name}", seed)
    (root / "train_1.txt").write_text("C\n\n")
    (root / "val.txt").write_text("A\nD\n")
    data = {"labeled": "train_1.txt", "val": "val.txt"}
    dataset = build(brats, root, channels=4, data=data)
    splits = resolve(dataset, dataset.data)
    assert [[i.id for i in each] for each in (splits.labeled, splits.unlabeled, splits.val)] == [
        ["C"],
        ["B"],
        ["A", "D"],
    ]
    (root / "train_1.txt").write_text("C\nE\n")
    text = refused(resolve, dataset, dataset.data)
    assert "line 2" in text and "'E' is not a case" in text


# SSL4MIS.


def draw_ssl4mis(root, end="list", unit=False):
    names = [f"patient{n:03d}_frame{f:02d}" for n in (99, 38, 50, 28, 11) for f in (1, 2)]
    for seed, name in enumerate(names):
        write_hdf5(root / f"data/{name}.h5", upright(seed), unit=unit)
    for split, part in (("train", names[:6]), ("val", names[6:8]), ("test", names[8:])):
        (root / f"{split}.{end}").write_text("".join(f"{name}\n" for name in part))
    return names


def upright(seed):
    """The slices first, as ACDC's volumes have them."""
    scan = phantom(seed)
    return scan._replace(voxels=scan.voxels.transpose(0, 3, 1, 2), tissue=scan.tissue.transpose(2, 0, 1))


@pytest.mark.parametrize("end", ["list", "txt"])
def test_ssl4mis(tmp_path, end):
    root = tmp_path / "root"
    names = draw_ssl4mis(root, end)
    dataset = build(ssl4mis, root, classes=BINARY)
    assert pairs(dataset) == {name: (f"data/{name}.h5", f"data/{name}.h5") for name in names[:6]}
    assert [list(pairs(dataset, split)) for split in ("val", "test")] == [names[6:8], names[8:]]
    assert list(groups(dataset).values()) == ["patient099"] * 2 + ["patient038"] * 2 + ["patient050"] * 2
    sample = dataset.read(dataset.items("train")[1])
    assert np.array_equal(sample.image, upright(1).voxels) and np.array_equal(sample.mask, upright(1).label("binary"))


def test_ssl4mis_first_lines_are_labeled(tmp_path):
    root = tmp_path / "root"
    names = draw_ssl4mis(root)
    dataset = build(ssl4mis, root, classes=BINARY, labeled_first=2, data={"val": "val"})
    assert [item.mask is not None for item in dataset.items("train")] == [True, True, False, False, False, False]
    assert [case.label is None for case in dataset.index.splits["train"]] == [False, False, True, True, True, True]
    splits = resolve(dataset, dataset.data)
    found = [[item.id for item in each] for each in (splits.labeled, splits.unlabeled, splits.val)]
    assert found == [names[:2], names[2:6], names[6:8]]
    assert "train list has 6 lines" in refused(build, ssl4mis, root, classes=BINARY, labeled_first=7)


def test_ssl4mis_slices_are_those_of_the_volumes(tmp_path):
    root = tmp_path / "root"
    names = draw_ssl4mis(root)
    dataset = build(ssl4mis, root, classes=BINARY, labeled_first=2, dimensions=2)
    items = dataset.items("train")
    assert len(items) == 6 * 12 and dataset.slice_axis == 0, "the shortest axis"
    assert sum(item.mask is not None for item in items) == 2 * 12
    sample = dataset.read(dataset.parse(f"{names[1]}/7"))
    assert np.array_equal(sample.image, upright(1).voxels[:, 7])
    assert np.array_equal(sample.mask, upright(1).label("binary")[7])
    assert {item.group for item in items[:24]} == {"patient099"}


def test_ssl4mis_names_what_is_wrong(tmp_path):
    root = tmp_path / "root"
    names = draw_ssl4mis(root)
    (root / f"data/{names[0]}.h5").unlink()
    write_hdf5(root / f"data/{names[1]}.h5", upright(0), edition=None)
    write_hdf5(root / f"data/{names[2]}.h5", upright(0)._replace(tissue=np.zeros((2, 3, 4), np.uint8)))
    (root / f"data/{names[3]}.h5").write_bytes(b"garbage")
    write_hdf5(root / f"data/{names[4]}.h5", phantom(0)._replace(voxels=phantom(0).voxels[:, :, :, 0]))
    (root / "train.list").write_text("".join(f"{name}\n" for name in [*names[:6], names[5]]))
    dataset = build(ssl4mis, root, classes=BINARY, data={"on_error": "skip"})
    problems(
        dataset, (names[0], "does not exist"), (names[1], "no 'label'", "it holds image"),
        ("label in", names[2], "(2, 3, 4)", "(12, 16, 20)"), (names[3], "cannot be read"),
        (names[4], "(16, 20, 1)", "(16, 20, 12)"), (names[5], "occurs twice"),
    )  # fmt: skip
    assert list(pairs(dataset)) == [names[5]]
    unlabeled = build(ssl4mis, root, classes=BINARY, labeled_first=1, data={"on_error": "skip"})
    assert names[1] in pairs(unlabeled) and names[2] in pairs(unlabeled), "what is not used may be wrong"


def test_ssl4mis_without_lists(tmp_path):
    assert "no train.list" in refused(build, ssl4mis, tmp_path, classes=BINARY)


def test_ids_end_at_a_comma(tmp_path):
    root = tmp_path / "root"
    write_hdf5(root / "data/BraTS19_2013_18_1.h5", phantom())
    (root / "train.txt").write_text("BraTS19_2013_18_1,x\n\n")
    dataset = build(ssl4mis, root, classes=BINARY)
    assert groups(dataset) == {"BraTS19_2013_18_1": "BraTS19_2013_18_1"}


class TestSsl4mis(DatasetTester):
    dataset = ssl4mis
    options = {"dimensions": 2, "labeled_first": 2}
    splits = ("train", "val", "test")
    channels = 1

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        draw_ssl4mis(tmp_path / "root", unit=True)
        type(self).options = {**type(self).options, "normalize": "none", "cache": str(tmp_path / "cache")}
        self.data = Data(root=tmp_path / "root", channels=1, mean=0.0, std=1.0, classes=BINARY)


# Left atrium.


def test_left_atrium(tmp_path):
    root = tmp_path / "root"
    for seed, name in enumerate("ABCD"):
        write_hdf5(root / f"2018LA_Seg_Training Set/{name}/mri_norm2.h5", phantom(seed))
    (root / "train.list").write_text("C\nA\nB\n")
    (root / "test.list").write_text("D\n")
    dataset = build(left_atrium, root, labeled_first=2)
    file = "2018LA_Seg_Training Set/{}/mri_norm2.h5"
    assert pairs(dataset) == {
        "C": (file.format("C"),) * 2, "A": (file.format("A"),) * 2, "B": (file.format("B"), None)
    }  # fmt: skip
    assert list(pairs(dataset, "test")) == ["D"] and dataset.classes == ("background", "left atrium")
    assert np.array_equal(dataset.read(dataset.items("test")[0]).mask, phantom(3).label("binary"))
    assert len(pairs(build(left_atrium, root))) == 3 and all(
        item.mask for item in build(left_atrium, root).items("train")
    )
    (root / "2018LA_Seg_Training Set/A/mri_norm2.h5").unlink()
    problems(build(left_atrium, root), ("A/mri_norm2.h5 does not exist",))
    (root / "train.list").unlink()
    assert "no train.list" in refused(build, left_atrium, root)
