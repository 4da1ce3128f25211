"""Folders and tables: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import json

import numpy as np
import pytest
from phantoms import Phantom, write_decathlon, write_image, write_label
from volume_data import BINARY, SMALL, UnitTester, build, groups, image, label, pairs, phantom, problems, refused

from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss.plugins.signatures import REQUIRED, describe_object
from farcluss.recipes.model import Data, Recipe
from farcluss.recipes.training import Train
from farcluss_medical.challenges import brats, left_atrium
from farcluss_medical.layouts import cases, decathlon, scans
from farcluss_medical.nnunet import nnunet


@pytest.mark.parametrize("layout", [decathlon, brats, left_atrium])
def test_options_are_documented(layout):
    """Those of the other layouts are checked by their testers."""
    options = describe_object(layout).options
    assert {"dimensions", "cache"} < set(options)
    for name, option in options.items():
        assert option.default is not REQUIRED and option.help, name


# Folders.


def draw_scans(root):
    for seed in range(3):
        image(root / f"images/{seed}.nii.gz", seed)
        if seed < 2:
            label(root / f"labels/{seed}.nii{'.gz' * seed}", seed)
    image(root / "others/9.nii.gz", 9)
    image(root / "held/5.nii", 5)
    label(root / "truth/5.nii.gz", 5)


def test_scans(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    (root / "images/.0.nii.gz").write_text("x")
    (root / "images/notes.txt").write_text("x")
    options = {"unlabeled": "others", "test_images": "held", "test_labels": "truth"}
    (root / "images/2.nii.gz").unlink()
    dataset = build(scans, root, classes=BINARY, **options)
    assert pairs(dataset) == {
        "0": ("images/0.nii.gz", "labels/0.nii"),
        "1": ("images/1.nii.gz", "labels/1.nii.gz"),
        "9": ("others/9.nii.gz", None),
    }
    assert pairs(dataset, "test") == {"5": ("held/5.nii", "truth/5.nii.gz")}
    assert dataset.findings() == [] and "no split 'val'" in refused(dataset.items, "val")


def test_scans_unlabeled_among_the_labeled(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    dataset = build(scans, root, classes=BINARY, unlabeled="images")
    assert pairs(dataset)["2"] == ("images/2.nii.gz", None) and dataset.findings() == []


def test_scans_names_every_partner_that_is_missing(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    label(root / "labels/7.nii.gz")
    image(root / "images/8.nii", 8)
    image(root / "images/8.nii.gz", 8)
    label(root / "truth/6.nii.gz")
    options = {"test_images": "held", "test_labels": "truth", "data": {"on_error": "skip"}}
    dataset = build(scans, root, classes=BINARY, **options)
    problems(
        dataset, ("images/2.nii.gz has no label",), ("labels/7.nii.gz has no image",),
        ("8.nii and", "8.nii.gz are both"), ("truth/6.nii.gz has no image",),
    )  # fmt: skip
    assert list(pairs(dataset)) == ["0", "1"]


@pytest.mark.parametrize("options", [{"images": "x"}, {"labels": "x"}, {"unlabeled": "x"}, {"test_images": "held"}])
def test_scans_without_a_folder(tmp_path, options):
    draw_scans(tmp_path / "root")
    text = refused(build, scans, tmp_path / "root", classes=BINARY, **options)
    assert "data.layout." in text and "is not a folder in" in text


def test_scans_need_classes(tmp_path):
    draw_scans(tmp_path / "root")
    assert "data.classes is missing" in refused(build, scans, tmp_path / "root", unlabeled="images")


class TestScans(UnitTester):
    dataset = scans
    options = {"unlabeled": "images", "test_images": "held", "test_labels": "truth"}
    splits = ("train", "test")

    def draw(self, root):
        draw_scans(root)


class TestSlices(TestScans):
    options = {**TestScans.options, "dimensions": 2}


class TestZscored(TestScans):
    options = {**TestScans.options, "spacing": [1.5, 1.0, 1.0]}
    normalize = "zscore"
    unit_range = False


# Tables.

TABLE = """case,image,label,group,split
a,images/0.nii.gz,labels/0.nii,P1,
b,images/1.nii.gz, labels/1.nii.gz ,P1,train
c,images/2.nii.gz,,,
d,held/5.nii,truth/5.nii.gz,P2,val
"""


def table(root, text):
    (root / "cases.csv").write_text(text, encoding="utf-8-sig")


def test_cases(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    table(root, TABLE)
    dataset = build(cases, root, classes=BINARY)
    assert pairs(dataset) == {
        "a": ("images/0.nii.gz", "labels/0.nii"),
        "b": ("images/1.nii.gz", "labels/1.nii.gz"),
        "c": ("images/2.nii.gz", None),
    }
    assert groups(dataset) == {"a": "P1", "b": "P1", "c": "c"} and groups(dataset, "val") == {"d": "P2"}
    assert dataset.findings() == []


def test_cases_with_a_file_per_channel(tmp_path):
    root = tmp_path / "root"
    for seed in (0, 1):
        image(root / f"{seed}.nii", seed)
    table(root, "image_1,case,image_0\n0.nii,x,1.nii\n")
    dataset = build(cases, root, channels=2, classes=BINARY)
    read = dataset.read(dataset.items("train")[0]).image
    assert np.allclose(read, np.concatenate([phantom(1).voxels, phantom(0).voxels]) / 1000, atol=1e-6)


def test_cases_report_every_line(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    rows = [",images/0.nii.gz,,,,", "a,images/0.nii.gz,labels/0.nii,,,", "a,images/1.nii.gz,,,,", "e,,,,,",
            "f,images/none.nii,labels/none.nii,,,", "g,images/1.nii.gz,labels/1.nii.gz,,training,",
            "h,images/2.nii.gz,,,test,", "i,images/2.nii.gz,,,,,more"]  # fmt: skip
    table(root, "case,image,label,group,split,patient\n" + "\n".join(rows) + "\n")
    dataset = build(cases, root, classes=BINARY, data={"on_error": "skip"})
    problems(
        dataset, ("line 1", "'patient'"), ("line 2", "column case is empty"), ("line 4", "case a is already in line 3"),
        ("line 5", "column image is empty"),
        ("line 6", "images/none.nii does not exist"), ("line 6", "labels/none.nii does not exist"),
        ("line 7", "'training'"), ("line 8", "test needs a label"), ("line 9", "more values"),
    )  # fmt: skip
    assert list(pairs(dataset)) == ["a"]


@pytest.mark.parametrize(
    "columns", ["", "image,label", "case,label", "case,image,image_0", "case,image_1", "case;image;label"]
)
def test_a_table_without_its_columns(tmp_path, columns):
    table(tmp_path, f"{columns}\n")
    assert "It needs case, and image" in refused(build, cases, tmp_path, classes=BINARY)


def test_no_table(tmp_path):
    assert "own.csv does not exist" in refused(build, cases, tmp_path, file="own.csv")


def test_a_patient_in_two_splits(tmp_path):
    root = tmp_path / "root"
    draw_scans(root)
    table(root, TABLE.replace("P2", "P1"))
    dataset = build(cases, root, classes=BINARY)
    problems(dataset, ("Patient P1", "train and val"))
    assert "Patient P1" in refused(dataset.items, "train")
    skipping = build(cases, root, classes=BINARY, data={"on_error": "skip", "val": "val"})
    text = refused(resolve, skipping, skipping.data)
    assert "None of the 1 training images has a mask" in text, "what val's patient has is not trained on"


@pytest.mark.parametrize(("first", "last"), [("train", "test"), ("val", "test"), ("train", "val")])
def test_skipping_leaves_a_patient_in_the_last_split_alone(tmp_path, first, last):
    """What is scored has not been trained on, whatever the order of the lines."""
    root = tmp_path / "root"
    draw_scans(root)
    lines = f"b,images/1.nii.gz,labels/1.nii.gz,Pa,{last}\na,images/0.nii.gz,labels/0.nii,Pa,{first}\n"
    table(root, f"case,image,label,group,split\n{lines}")
    dataset = build(cases, root, classes=BINARY, data={"on_error": "skip"})
    problems(dataset, ("Patient Pa", first, last))
    assert [item.id for item in dataset.items(last)] == ["b"] and dataset.items(first) == []


class TestCases(UnitTester):
    dataset = cases
    splits = ("train", "val")

    def draw(self, root):
        draw_scans(root)
        table(root, TABLE)


def test_a_list_names_cases_whose_slices_are_meant(tmp_path):
    """A line with a case stands for all its slices; one with a slice for it alone."""
    write_decathlon(tmp_path, 3, 1, extent=SMALL, unit=True)
    (tmp_path / "labeled.txt").write_text("case_000\ncase_001/003\n")
    data = Data(root=tmp_path, channels=3, labeled="labeled.txt", val="none")
    options = {"dimensions": 2, "cache": str(tmp_path / "cache"), "slice_axis": 2}
    with pytest.raises(DataError, match=r"and \d+ more have 1 channels, but data\.channels is 3"):  # not: no such case
        resolve(decathlon(data, **options), data)
    data = data.model_copy(update={"channels": 1})
    labeled = resolve(decathlon(data, **options), data).labeled
    assert [item.id for item in labeled] == [*(f"case_000/{n:03d}" for n in range(12)), "case_001/003"]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_recipes_need_not_say_what_volumes_are(tmp_path, dimensions):
    """Of unset keys alone: cases are normalized, predictions are volumes, channels are those of the files."""
    write_decathlon(tmp_path, 2, extent=SMALL)
    given = Recipe(data=Data(root=tmp_path), train=Train(steps=1))
    dataset = decathlon(given.data, dimensions=dimensions, cache=str(tmp_path / "cache"))
    filled = given.with_defaults(dataset.defaults)
    assert (filled.data.channels, filled.data.channel_mean, filled.data.channel_std) == (1, [0.0], [1.0])
    assert filled.data.flip_axes == list(range(dimensions)) and filled.eval.writer.name == "nifti"
    assert set(given.sources(dataset.defaults).values()) == {"data set"}
    own = given.model_copy(update={"data": Data(root=tmp_path, mean=0.5, std=0.25, flip_axes=[], turns=[(0, 1)])})
    kept = own.with_defaults(dataset.defaults).data
    assert (kept.mean, kept.std, kept.flip_axes, kept.turns) == (0.5, 0.25, [], [(0, 1)])


def test_scans_of_patients_in_folders(tmp_path):
    """A glob, a pattern, and names that differ in their folder alone."""
    for number in range(3):
        folder = tmp_path / f"p{number}"
        scan = Phantom(number, 1, extent=SMALL).scan()
        write_image(folder / "t1.nii.gz", scan)
        if number < 2:
            write_label(folder / "seg.nii.gz", scan)
    options = {"images": "*/t1.nii.gz", "labels": "{dir}/seg", "unlabeled": "*/t1.nii.gz"}
    data = Data(root=tmp_path, classes={"background": 0, "tissue": [1, 2, 3]})
    dataset = scans(data, cache=str(tmp_path / "cache"), **options)
    items = {item.id: item for item in dataset.items("train")}
    assert list(items) == ["p0/t1", "p1/t1", "p2/t1"] and dataset.findings() == []
    assert [bool(item.mask) for item in items.values()] == [True, True, False]
    assert dataset.parse("p1/t1") == items["p1/t1"]
    assert "matches no volume" in refused(scans, data, images="*/t2.nii.gz")
    (tmp_path / "p2").rename(tmp_path / "q2")
    problem = scans(data, **(options | {"unlabeled": ""})).findings()
    assert len(problem) == 1 and "q2/t1.nii.gz has no label" in problem[0]


def test_scans_use_no_label_that_may_be_another(tmp_path):
    """Two labels of one name leave their case out; hidden files and files in folders below are no labels."""
    for number in range(2):
        scan = Phantom(number, 1, extent=SMALL).scan()
        write_image(tmp_path / f"images/c{number}.nii.gz", scan)
        write_label(tmp_path / f"labels/c{number}.nii.gz", scan)
    write_label(tmp_path / "labels/c1.nii", scan)
    for name in ("._c0.nii.gz", "old/c0.nii.gz"):
        write_label(tmp_path / "labels" / name, scan)
    data = Data(root=tmp_path, classes={"background": 0, "tissue": [1, 2, 3]}, on_error="skip")
    dataset = scans(data, cache=str(tmp_path / "cache"), unlabeled="images")
    (problem,) = dataset.findings()
    assert "labels/c1.nii or " in problem and "labels/c1.nii.gz" in problem
    assert [(item.id, bool(item.mask)) for item in dataset.items("train")] == [("c0", True)]


def test_what_lies_in_folders_of_scans_is_used_or_said(tmp_path):
    draw_scans(tmp_path)
    others = ["images/sub/9.nii.gz", "images/note.txt", "images/x.png", "images/alone.img", "labels/sub/8.nii.gz"]
    for name in [*others, "images/dicom/1.dcm", "images/old/1.gipl"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "images/7.nii.gz").mkdir()
    data = Data(root=tmp_path, classes=BINARY, on_error="skip")
    dataset = scans(data, cache=str(tmp_path / "cache"), unlabeled="images")
    account = dataset.account(dataset.items("train"))
    assert {entry.path.relative_to(tmp_path).as_posix(): entry.reason.value for entry in account.passed} == {
        "images/sub/9.nii.gz": "deeper",
        "images/x.png": "unread",
        "images/alone.img": "unread",
        "images/old/1.gipl": "unread",
        "labels/sub/8.nii.gz": "deeper",
        "images/7.nii.gz": "special",
    }
    assert account.used == 5


@pytest.mark.parametrize(
    ("image", "mask", "words", "options"),
    [
        ("{}_0000", "{}", 'data.layout.image_suffix = "_0000"', {"image_suffix": "_0000"}),
        ("{}", "{}_seg", 'data.layout.labels = "labels/{stem}_seg"', {"labels": "labels/{stem}_seg"}),
    ],
)
@pytest.mark.parametrize("unlabeled", ["", "images"])
def test_names_that_differ_by_an_ending_are_one_problem_with_its_remedy(
    tmp_path, image, mask, words, options, unlabeled
):
    scan = phantom(0)
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/{image.format(name)}.nii.gz", scan)
        write_label(tmp_path / f"labels/{mask.format(name)}.nii.gz", scan, "binary")
    data = {"on_error": "skip"}
    problems(
        build(scans, tmp_path, classes=BINARY, data=data, unlabeled=unlabeled),
        ("and 2 more have no image in", words),
    )
    mended = build(scans, tmp_path, classes=BINARY, unlabeled=unlabeled, **options)
    assert problems(mended) == [] and all(item.mask for item in mended.items("train"))


def test_two_images_of_one_name_are_one_problem(tmp_path):
    scan = phantom(0)
    for name in ("a.nii", "a.nii.gz", "b.nii"):
        write_image(tmp_path / f"images/{name}", scan)
    for name in "ab":
        write_label(tmp_path / f"labels/{name}.nii.gz", scan, "binary")
    problems(build(scans, tmp_path, classes=BINARY, data={"on_error": "skip"}), ("are both named a",))


def test_nnunet_and_brats_use_files_or_say_why_not(tmp_path):
    scan = phantom(0)
    for name in ("imagesTr/a_0000.NII.GZ", "imagesTr/b_0000.nii", "ID/ID_flair.nii.gz", "other/x_flair.nii.gz"):
        write_image(tmp_path / name, scan)
    write_label(tmp_path / "labelsTr/a.nii.gz", scan, "binary")
    facts = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    data = Data(root=tmp_path, classes=BINARY, on_error="skip")
    known = {"nnunet": nnunet(data, cache=str(tmp_path / "c")), "brats": brats(data, modalities=["flair"], cache="")}
    found = {name: [(e.path.name, e.reason.value) for e in one.account([]).passed] for name, one in known.items()}
    assert known["nnunet"].items("train")[0].mask and found["nnunet"] == [("b_0000.nii", "unread")]
    assert ("x_flair.nii.gz", "unfit") in found["brats"] and not any("ID" in name for name, _ in found["brats"])
