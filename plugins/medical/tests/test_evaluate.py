"""`farcluss medical evaluate` on small NIfTI files."""

import csv
import gzip
import json
import math
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from farcluss.cli import farcluss
from farcluss.errors import DataError
from farcluss_medical import metrics
from farcluss_medical.cli import COMMANDS
from farcluss_medical.evaluation import evaluate, pair_files, read_labels
from farcluss_medical.summary import RESAMPLES, SEED, bootstrap

SPACING = (1.5, 1.0, 4.0)
SHAPE = (12, 10, 6)
DIAGONAL = math.sqrt(18**2 + 10**2 + 24**2)
AFFINE = np.array([[-1.5, 0, 0, 9], [0, 1, 0, -20], [0, 0, 4, 3.25], [0, 0, 0, 1]])


def save(path, labels, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(labels, dtype=dtype), affine), path)


def organ(shift=0, tumor=True):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3 + shift : 9 + shift, 2:8, 1:5] = 1
    if tumor:
        labels[5 + shift : 7 + shift, 4:6, 2:4] = 2
    return labels


@pytest.fixture
def scans(tmp_path):
    """Three cases: a shifted organ with its tumor, a missed tumor, and one without tumor that invents one."""
    for case, truth, prediction in (
        ("a", organ(), organ(shift=1)),
        ("b", organ(), organ(tumor=False)),
        ("c", organ(tumor=False), organ()),
    ):
        save(tmp_path / f"truths/{case}.nii.gz", truth)
        save(tmp_path / f"predictions/{case}.nii.gz", prediction)
    return tmp_path


def call(folder, *options, truths="truths", predictions="predictions"):
    """Run the command; errors meant for users are raised."""
    arguments = ["evaluate", str(folder / truths), str(folder / predictions), *map(str, options)]
    result = CliRunner().invoke(farcluss, ["medical", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def summary_of(folder, *options, **names):
    result = call(folder, "--json", *options, **names)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def rows_of(folder, *options):
    assert call(folder, "-o", folder / "out", *options).exit_code == 0
    with open(folder / "out/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_line_per_case_and_class(scans):
    rows = rows_of(scans)
    assert [(row["case"], row["class"], row["flag"]) for row in rows] == [
        ("a", "1", ""),
        ("a", "2", ""),
        ("b", "1", ""),
        ("b", "2", "missed"),
        ("c", "1", ""),
        ("c", "2", "false-positive"),
    ]
    expected = metrics.score(organ() == 1, organ(shift=1) == 1, SPACING)
    assert rows[0]["true_voxels"] == str(expected.true_voxels)
    assert rows[0]["predicted_voxels"] == str(expected.predicted_voxels)
    for name in ("dice", "iou", "hd95", "assd", "nsd"):
        assert float(rows[0][name]) == pytest.approx(expected.values[name], rel=1e-5)
    # The tumor, 2 x 2 x 2 voxels, moves by one voxel of 1.5 mm: half of it stays, and half of the surface.
    assert {name: float(rows[1][name]) for name in ("dice", "hd95", "assd", "nsd")} == {
        "dice": 0.5, "hd95": 1.5, "assd": 0.75, "nsd": 0.5}  # fmt: skip
    assert rows[3]["true_voxels"] == "8" and rows[3]["predicted_voxels"] == "0"
    for row in (rows[3], rows[5]):
        assert [float(row[name]) for name in ("dice", "iou", "nsd")] == [0, 0, 0]
        assert float(row["hd95"]) == float(row["assd"]) == pytest.approx(DIAGONAL, rel=1e-5)


def test_the_summary_agrees_with_the_csv(scans):
    rows = rows_of(scans)
    summary = json.loads((scans / "out/summary.json").read_text())
    assert summary["cases"] == 3
    assert [one["class"] for one in summary["classes"]] == ["1", "2"]
    tumor = summary["classes"][1]
    assert tumor["labels"] == [2]
    assert [tumor[key] for key in ("cases", "both_empty", "missed", "false_positive")] == [3, 0, 1, 1]
    for one in summary["classes"]:
        for name in ("dice", "iou", "hd95", "assd", "nsd"):
            values = [float(row[name]) for row in rows if row["class"] == one["class"]]
            assert one[name]["mean"] == pytest.approx(sum(values) / 3, rel=1e-5)
            assert one[name]["median"] == pytest.approx(sorted(values)[1], rel=1e-5)
            assert one[name]["interval"][0] <= one[name]["mean"] <= one[name]["interval"][1]
            both = [of_class[name]["mean"] for of_class in summary["classes"]]
            assert summary["mean"][name] == pytest.approx(sum(both) / 2)
    assert "1 mm" in summary["protocol"]["text"] and "diagonal" in summary["protocol"]["text"]
    assert summary == summary_of(scans)


def test_two_empty_masks_are_counted_and_left_out_of_means(tmp_path):
    save(tmp_path / "truths/a.nii", organ())
    save(tmp_path / "predictions/a.nii", organ())
    save(tmp_path / "truths/b.nii", organ(tumor=False))
    save(tmp_path / "predictions/b.nii", organ(tumor=False))
    rows = rows_of(tmp_path)
    assert rows[3]["flag"] == "both-empty" and rows[3]["dice"] == rows[3]["hd95"] == "nan"
    tumor = summary_of(tmp_path)["classes"][1]
    assert (tumor["cases"], tumor["both_empty"]) == (2, 1)
    assert tumor["dice"] == {"mean": 1, "median": 1, "interval": None}
    absent = summary_of(tmp_path, "--labels", "2,7")
    assert absent["classes"][1]["dice"] == {"mean": None, "median": None, "interval": None}
    assert absent["mean"]["dice"] == 1
    assert "-" in call(tmp_path, "--labels", "7").stdout


def test_the_bootstrap_interval_is_the_one_of_a_plain_loop_and_covers_the_mean():
    values = np.random.default_rng(1).normal(0.8, 0.1, size=(30, 1))
    random = np.random.default_rng(SEED)
    means = sorted(np.mean([values[i, 0] for i in random.integers(30, size=30)]) for _ in range(RESAMPLES))
    np.testing.assert_allclose(bootstrap(values)[:, 0], np.percentile(means, (2.5, 97.5)))
    width = np.ptp(bootstrap(values)[:, 0])
    assert width == pytest.approx(2 * 1.96 * values.std() / math.sqrt(30), rel=0.1)  # the normal approximation
    np.testing.assert_array_equal(bootstrap(values), bootstrap(values))


def test_the_table_shows_classes_counts_and_the_notice_once(scans, monkeypatch):
    monkeypatch.setenv("COLUMNS", "64")  # too narrow
    result = call(scans, "--labels", "2", "--names", "tumor")
    assert "tumor" in result.stdout and "Dice" in result.stdout
    assert result.stdout.lower().count("research use only") == 1
    assert "…" not in result.stdout
    monkeypatch.setenv("COLUMNS", "80")
    (median,) = [line.split() for line in call(scans, "--labels", "2").stdout.splitlines() if "median" in line]
    tumor = summary_of(scans, "--labels", "2")["classes"][0]
    assert median[1] == f"{100 * tumor['dice']['median']:.2f}" and median[3] == f"{tumor['hd95']['median']:.2f}"


def test_regions_are_unions_of_labels(scans):
    summary = summary_of(scans, "--region", "whole=1,2", "--region", "core=2")
    assert [(one["class"], one["labels"]) for one in summary["classes"]] == [("whole", [1, 2]), ("core", [2])]
    values = [metrics.score(organ() > 0, organ(shift) > 0, SPACING).values["hd95"] for shift in (1, 0, 0)]
    assert summary["classes"][0]["hd95"]["mean"] == pytest.approx(np.mean(values))
    assert summary["classes"][0]["hd95"]["median"] == 0


def test_names_and_labels(scans):
    summary = summary_of(scans, "--labels", "2,1", "--names", "tumor, organ")
    assert [(one["class"], one["labels"]) for one in summary["classes"]] == [("tumor", [2]), ("organ", [1])]


def test_the_tolerance_is_in_millimeters(scans):
    near = [summary_of(scans, "--labels", "2", "--tolerance", mm)["classes"][0]["nsd"]["mean"] for mm in (1.49, 1.5)]
    assert near == pytest.approx([0.5 / 3, 1 / 3])


def test_the_protocol_of_the_literature_is_in_voxels_and_flatters(scans):
    result = call(scans, "--protocol", "ssl4mis", "--json")
    assert "ssl4mis" in result.stderr and "flatters" in result.stderr
    tumor = json.loads(result.stdout)["classes"][1]
    assert "assd" not in tumor
    assert tumor["hd95"]["mean"] == pytest.approx(1 / 3)  # one voxel, and 0 for each of the empty masks
    assert tumor["asd"]["mean"] == pytest.approx(0.5 / 3)
    assert tumor["dice"]["mean"] == pytest.approx(0.5 / 3)
    assert tumor["hd95"]["mean"] < summary_of(scans)["classes"][1]["hd95"]["mean"]
    assert rows_of(scans, "--protocol", "ssl4mis")[0]["asd"]


def test_ignored_voxels_count_in_neither_mask(tmp_path):
    truth, prediction = organ(), organ()
    truth[:6] = 255
    prediction[:6] = 1
    save(tmp_path / "truths/a.nii.gz", truth)
    save(tmp_path / "predictions/a.nii.gz", prediction)
    summary = summary_of(tmp_path, "--ignore", "255")
    assert [one["class"] for one in summary["classes"]] == ["1", "2"]
    assert summary["mean"] == {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "nsd": 1}
    assert [one["class"] for one in summary_of(tmp_path)["classes"]] == ["1", "2", "255"]
    with pytest.raises(DataError, match="255"):
        call(tmp_path, "--ignore", "255", "--labels", "1,255")


def test_integers_that_nobody_knows_are_reported(scans):
    strange = organ()
    strange[0, 0, 0], strange[1, 0, 0] = 3, 9
    save(scans / "predictions/a.nii.gz", strange)
    result = call(scans, "--labels", "1", "--json")
    assert json.loads(result.stdout)["unknown_labels"] == {"3": 1, "9": 1}  # 2 is in ground truths, though not scored
    assert "Label 3" in result.stderr and "Label 9" in result.stderr
    assert summary_of(scans, "--region", "odd=1,3")["unknown_labels"] == {"9": 1}


def test_every_ground_truth_needs_a_prediction_and_more_are_noted(scans):
    for name in ("z", "a_probs", "a_entropy"):  # the last two are what `farcluss predict` adds by option
        save(scans / f"predictions/{name}.nii", organ())
    result = call(scans, "--json")
    assert json.loads(result.stdout)["extra_predictions"] == ["z"] and "first z" in result.stderr
    (scans / "predictions/b.nii.gz").unlink()
    (scans / "predictions/c.nii.gz").unlink()
    with pytest.raises(DataError, match="2 of 3 ground truths lack a prediction, first b"):
        call(scans)


def test_a_list_of_cases(scans):
    (scans / "test.list").write_text("c\n\na\n")
    (scans / "predictions/b.nii.gz").unlink()
    result = call(scans, "--json", "--cases", str(scans / "test.list"))
    assert json.loads(result.stdout)["cases"] == 2
    (scans / "test.list").write_text("c\nb\n")
    with pytest.raises(DataError, match=r"predictions has no file for 1 of 2 listed cases, first b\."):
        call(scans, "--cases", str(scans / "test.list"))


def test_the_lists_of_data_sets(scans):
    """UA-MT lists folders of files that are all called alike; other lists have extensions or more columns."""
    for name in "xyz":
        save(scans / f"set/deep/{name}/mri_norm2.nii.gz", organ())
        save(scans / f"made/{name}/mri_norm2.nii.gz", organ(shift=1))
        save(scans / f"made/{name}/mri_norm2_probs.nii.gz", organ())
    (scans / "test.list").write_text("x\nz, 3\n\nx\n")
    result = call(scans, "--json", "--cases", str(scans / "test.list"), truths="set", predictions="made")
    assert json.loads(result.stdout)["cases"] == 2
    (scans / "test.list").write_text("a.nii.gz\n")
    assert json.loads(call(scans, "--json", "--cases", str(scans / "test.list")).stdout)["cases"] == 1
    save(scans / "made/x/other.nii.gz", organ())
    (scans / "test.list").write_text("x\n")
    with pytest.raises(DataError, match="x may be x/mri_norm2 or x/other"):
        call(scans, "--cases", str(scans / "test.list"), truths="set", predictions="made")
    (scans / "test.list").write_text("\n")
    with pytest.raises(DataError, match="names no case"):
        call(scans, "--cases", str(scans / "test.list"))


def test_endings_may_differ_and_other_files_are_passed_over(scans):
    (scans / "predictions/b.nii.gz").unlink()
    save(scans / "predictions/b.nii", organ())
    (scans / "truths/dataset.json").write_text("{}")
    (scans / "truths/._a.nii.gz").write_bytes(b"a Finder's file")
    pairs, extra = pair_files(scans / "truths", scans / "predictions")
    assert [pair.case for pair in pairs] == ["a", "b", "c"] and extra == []
    save(scans / "truths/b.nii", organ())
    with pytest.raises(DataError, match=r"b.nii and b.nii.gz|b.nii.gz and b.nii"):
        pair_files(scans / "truths", scans / "predictions")


@pytest.mark.parametrize("joint", ["_", "-"])
def test_ground_truths_beside_the_images_of_their_cases(scans, joint):
    """As in BraTS, and predictions in folders as `farcluss predict` makes them; other files are no cases."""
    for case in "ab":
        for name in ("flair", "seg"):
            save(scans / f"root/HGG/{case}/{case}{joint}{name}.nii.gz", organ())
        save(scans / f"made/HGG/{case}/{case}.nii.gz", organ())
    pairs, extra = pair_files(scans / "root", scans / "made")
    assert [(pair.case, pair.truth.name) for pair in pairs] == [
        (f"HGG/{case}/{case}", f"{case}{joint}seg.nii.gz") for case in "ab"
    ]
    assert extra == []


def test_ground_truths_in_hdf5(tmp_path):
    """Files of benchmarks have all one name, in a folder each; they say no spacing."""
    for number in range(2):
        (tmp_path / f"truths/{number}").mkdir(parents=True)
        with h5py.File(tmp_path / f"truths/{number}/mri.h5", "w") as file:
            file["image"], file["label"] = np.zeros(SHAPE), organ()
        (tmp_path / f"predictions/{number}").mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(organ(shift=1), np.eye(4)), tmp_path / f"predictions/{number}/mri.nii.gz")
    summary = summary_of(tmp_path, "--labels", 1)
    expected = metrics.score(organ() == 1, organ(shift=1) == 1, (1.0, 1.0, 1.0)).values
    assert summary["cases"] == 2 and summary["classes"][0]["assd"]["mean"] == pytest.approx(expected["assd"])


def test_two_files_are_a_pair(scans):
    summary = summary_of(scans, truths="truths/a.nii.gz", predictions="predictions/b.nii.gz")
    assert summary["cases"] == 1
    assert summary["classes"][0]["class"] == "1"
    with pytest.raises(DataError, match=r"no \.nii"):
        pair_files(scans / "truths/a.nii.gz", Path(__file__))


def test_shapes_must_agree(scans):
    save(scans / "predictions/b.nii.gz", organ()[:, :, 1:])
    with pytest.raises(DataError, match=r"b\.nii\.gz.*\(12, 10, 5\).*\(12, 10, 6\)"):
        call(scans)


@pytest.mark.parametrize(("difference", "agree"), [(0.15, True), (0.25, False)])
def test_affines_must_agree_within_a_twentieth_of_a_voxel(scans, difference, agree):
    affine = AFFINE.copy()
    affine[2, 3] += difference
    save(scans / "predictions/b.nii.gz", organ(), affine)
    if agree:
        assert call(scans).exit_code == 0
        return
    with pytest.raises(DataError, match=r"(?s)b\.nii\.gz.*0\.25 mm apart.*4\.0, 3\.5\].*4\.0, 3\.25\]"):
        call(scans)


def test_labels_may_be_stored_as_floats_but_probabilities_are_refused(scans):
    save(scans / "predictions/a.nii.gz", organ(shift=1), dtype=np.float32)
    before = summary_of(scans)
    save(scans / "predictions/a.nii.gz", organ(shift=1))
    assert summary_of(scans) == before
    for value in (0.5, np.nan, np.inf, 1e12):
        save(scans / "predictions/a.nii.gz", np.where(organ() == 2, value, 0), dtype=np.float32)
        with pytest.raises(DataError, match=r"a\.nii\.gz: 8 of 720 voxels are (not whole numbers|NaN or infinite)"):
            call(scans)


def test_unreadable_files_are_named(scans):
    path = scans / "predictions/a.nii.gz"
    whole = path.read_bytes()
    for content in (b"", b"no volume", whole[:-20], gzip.compress(gzip.decompress(whole)[:400])):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.nii\.gz cannot be read"):
            call(scans)


def test_a_single_slice_is_scored_in_two_dimensions(tmp_path):
    truth, prediction = organ()[:, :, 2:3] > 0, organ(shift=1)[:, :, 2:3] > 0
    save(tmp_path / "truth.nii", truth)
    save(tmp_path / "prediction.nii", prediction)
    rows = summary_of(tmp_path, truths="truth.nii", predictions="prediction.nii")["classes"]
    expected = metrics.score(truth[..., 0], prediction[..., 0], SPACING[:2]).values
    assert rows[0]["assd"]["mean"] == pytest.approx(expected["assd"])
    assert expected["assd"] != pytest.approx(metrics.score(truth, prediction, SPACING).values["assd"])


def test_a_unit_that_nobody_knows_is_millimeters(tmp_path):
    image = nibabel.Nifti1Image(organ(), AFFINE)
    image.header["xyzt_units"] = 7
    nibabel.save(image, tmp_path / "a.nii")
    assert read_labels(tmp_path / "a.nii").spacing == SPACING


def test_there_must_be_a_class(tmp_path):
    save(tmp_path / "a.nii", np.zeros(SHAPE))
    pairs, _ = pair_files(tmp_path / "a.nii", tmp_path / "a.nii")
    with pytest.raises(DataError, match="no label but 0"):
        evaluate(pairs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "1", "--region", "a=2"], "give one of them"),
        (["--names", "organ"], "give both"),
        (["--labels", "1,2", "--names", "organ"], "2 labels, --names 1"),
        (["--labels", "1,x"], "'1,x'"),
        (["--labels", "0,1"], "background"),
        (["--labels", "1,1"], "'1' is named twice"),
        (["--region", "whole"], "NAME=1,2"),
        (["--region", "=1"], "NAME=1,2"),
        (["--tolerance", "-1"], "--tolerance"),
        (["--protocol", "best"], "best"),
    ],
)
def test_wrong_usage(scans, options, words):
    result = call(scans, *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_group_lists_its_commands_and_suggests_near_names():
    result = CliRunner().invoke(farcluss, ["medical", "--help"])
    assert result.exit_code == 0 and "Example: farcluss medical evaluate" in result.stdout
    for name in COMMANDS:
        assert name in result.stdout
    wrong = CliRunner().invoke(farcluss, ["medical", "evalaute"])
    assert wrong.exit_code == 2 and "did you mean 'evaluate'?" in wrong.stderr
    shown = CliRunner().invoke(farcluss, ["medical", "evaluate", "--help"]).stdout
    assert "farcluss medical evaluate labelsTs" in shown


def test_a_flipped_bit_is_not_scored(tmp_path):
    """nibabel would not look at the checksum of a compressed file."""
    save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 2, (24, 24, 24), np.uint8))
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[-8] ^= 1  # of the checksum itself: the voxels still decompress
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz cannot be read"):
        read_labels(tmp_path / "a.nii.gz")
