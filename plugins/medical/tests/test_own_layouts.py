"""Decathlon, folders and tables: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import json

import numpy as np
import pytest
from phantoms import Phantom, write_channels, write_decathlon, write_image, write_label
from volume_data import BINARY, SMALL, UnitTester, build, groups, image, label, pairs, phantom, problems, refused

from farcluss.data.splits import resolve
from farcluss.errors import DataError
from farcluss.plugins.signatures import REQUIRED, describe_object
from farcluss.recipes.model import Data, Recipe, Train
from farcluss_medical.challenges import brats, left_atrium
from farcluss_medical.layouts import cases, decathlon, scans


@pytest.mark.parametrize("layout", [decathlon, brats, left_atrium])
def test_options_are_documented(layout):
    """Those of the other layouts are checked by their testers."""
    options = describe_object(layout).options
    assert {"dimensions", "cache"} < set(options)
    for name, option in options.items():
        assert option.default is not REQUIRED and option.help, name


# Decathlon.


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


def test_no_datalist(tmp_path):
    assert "dataset.json does not exist" in refused(build, decathlon, tmp_path)
    assert "is not a folder" in refused(build, decathlon, tmp_path / "none")


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
    assert "are both named c1" in problem
    assert [(item.id, bool(item.mask)) for item in dataset.items("train")] == [("c0", True)]


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
        ("has no image for", "and 2 more", words),
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
