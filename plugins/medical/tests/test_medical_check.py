"""`farcluss medical check`: what it lists of each case against NumPy, and every defect that is planted."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from commandline import cli
from small_scans import Scans, draw, save

import farcluss_medical.checks
from farcluss_medical.preprocessing import zscore


@pytest.fixture
def scans(tmp_path):
    return Scans(
        tmp_path / "set",
        {"a": draw(0, (9, 8, 7)), "b": draw(1, (10, 8, 8))},
        {"u": draw(2, (9, 9, 9), labeled=False)},
        {"v": draw(3, (9, 10, 9))},
    )


def check(recipe, *settings):
    """Exit code, and what `--json` gives."""
    words = [word for setting in settings for word in ("--set", setting)]
    result = cli("medical", "check", recipe, "--json", *words)
    assert result.err == "", result
    return result.code, json.loads(result.out)


class TestClean:
    def test_nothing_to_say(self, scans):
        code, given = check(scans.write())
        assert code == 0 and given["notes"] == given["problems"] == []

    def test_every_case_as_it_is(self, scans):
        scans.training["b"] = replace(scans.training["b"], axes="LPS")
        cases = {case["case"]: case for case in check(scans.write())[1]["cases"]}
        assert list(cases) == ["a", "b", "u", "v"]
        splits = {"a": "train", "b": "train", "u": "train", "v": "val"}
        for name, scan in {**scans.training, **scans.unlabeled, **scans.validation}.items():
            labels = None
            if scan.label is not None:
                values, counts = np.unique(scan.label, return_counts=True)
                labels = {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
            assert cases[name] == {
                "split": splits[name],
                "case": name,
                "labeled": scan.label is not None,
                "shape": list(scan.label.shape if scan.label is not None else (9, 9, 9)),
                "spacing": [1.0, 1.25, 1.5],
                "channels": 1,
                "orientation": scan.axes,
                "dtype": "int16",
                "intensities": [[float(scan.voxels.min()), float(scan.voxels.max())]],
                "labels": labels,
            }

    def test_channels_are_those_of_the_files(self, scans):
        recipe = scans.write()
        text = recipe.read_text()
        for line in ("channels = 1\n", "mean = 0.0\n", "std = 1.0\n"):
            assert line in text
            text = text.replace(line, "")
        recipe.write_text(text)
        assert {case["channels"] for case in check(recipe)[1]["cases"]} == {1}

    def test_the_table(self, scans):
        scan = scans.training["a"]
        result = cli("medical", "check", scans.write())
        assert (result.code, result.err) == (0, "")
        lines = [line.rstrip() for line in result.out.splitlines()]
        (line,) = [line for line in lines if line.startswith("train  a ")]
        counts = "  ".join(f"{value}: {(scan.label == value).sum():,}" for value in range(3))
        for cell in ("9x8x7", "1x1.25x1.5", "RAS", "1 int16", f"{scan.voxels.min()} to {scan.voxels.max()}", counts):
            assert f" {cell} " in f"{line} "
        assert next(line for line in lines if line.startswith("train  u ")).endswith("unlabeled")
        assert lines[-1] == "4 cases, 3 with a label; no problems"

    def test_each_volume_is_read_once(self, scans, monkeypatch):
        read = []
        for name in ("read_image", "read_label"):
            own = getattr(farcluss_medical.checks, name)
            monkeypatch.setattr(farcluss_medical.checks, name, lambda *x, own=own: read.append(x[0]) or own(*x))
        check(scans.write())
        assert len(read) == len(set(read)) == 4 + 3

    def test_nothing_is_written(self, scans):
        recipe = scans.write()
        before = sorted(scans.root.rglob("*"))
        check(recipe)
        assert sorted(scans.root.rglob("*")) == before

    def test_labels_far_apart_are_counted(self, scans):
        scans.labels = {"0": "background", "1": "organ", "2": "tumor", "2000000000": "vessel"}
        scan = scans.training["a"]
        scan.label = scan.label.astype(np.int32)
        scan.label[0, 0, :3] = 2_000_000_000
        (case,) = [case for case in check(scans.write())[1]["cases"] if case["case"] == "a"]
        assert case["labels"] == {str(value): (scan.label == value).sum() for value in (0, 1, 2, 2_000_000_000)}

    def test_oblique_affines_are_fine(self, scans):
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
        scans.training["a"].affine = turn @ np.diag([1, 1.25, 1.5, 1])
        code, given = check(scans.write())
        assert code == 0 and given["notes"] == []
        assert given["cases"][0]["spacing"] == pytest.approx([1, 1.25, 1.5], abs=1e-5)


def unknown_label(scans):
    scans.training["a"].label[2, 3, 4] = 7
    return scans.write()


def fraction(scans):
    scans.training["a"].label = scans.training["a"].label + np.float32(0.5)
    return scans.write()


def not_a_number(scans):
    scan = scans.training["a"]
    scan.voxels = scan.voxels.astype(np.float32)
    scan.voxels[0, 1, 2, :3] = [np.nan, np.inf, np.nan]
    return scans.write()


def label_not_a_number(scans):
    label = scans.training["a"].label.astype(np.float32)
    label[0, 0, :2] = np.nan, np.inf
    scans.training["a"].label = label
    return scans.write()


def truncated(path):
    def plant(scans):
        recipe = scans.write()
        file = getattr(scans, path)("a")
        file.write_bytes(file.read_bytes()[:500])
        return recipe

    return plant


def missing(scans):
    recipe = scans.write()
    scans.label("a").unlink()
    return recipe


def no_volume(scans):
    recipe = scans.write()
    scans.image("a").write_bytes(b"x" * 900)
    return recipe


def other_shape(scans):
    recipe = scans.write()
    save(scans.label("a"), scans.training["a"].label[:, :, 1:], scans.training["a"])
    return recipe


PROBLEMS = [
    (unknown_label, "labels/a.nii holds the value 7"),
    (fraction, "labels/a.nii: 504 of 504 voxels are not whole numbers"),
    (not_a_number, "images/a.nii: 3 of 504 voxels are NaN or infinite"),
    (label_not_a_number, "labels/a.nii: 2 of 504 voxels are NaN or infinite"),
    (truncated("image"), "images/a.nii cannot be read"),
    (truncated("label"), "labels/a.nii cannot be read"),
    (missing, "labels/a.nii does not exist"),
    (no_volume, "images/a.nii cannot be read"),
    (other_shape, "labels/a.nii has the shape (9, 8, 6)"),
]


class TestProblems:
    @pytest.mark.parametrize(("plant", "text"), PROBLEMS)
    def test_each_is_found(self, scans, plant, text):
        code, given = check(plant(scans))
        assert code == 1
        (problem,) = given["problems"]
        assert text in problem
        assert {"b", "u", "v"} <= {case["case"] for case in given["cases"]}

    def test_all_are_found(self, scans):
        scans.unlabeled["u"].voxels = np.full((1, 9, 9, 9), np.nan, np.float32)
        scans.validation["v"].label[0, 0, 0] = 9
        recipe = unknown_label(scans)
        scans.label("b").unlink()
        code, given = check(recipe)
        assert code == 1 and len(given["problems"]) == 4
        result = cli("medical", "check", recipe)
        assert result.code == 1
        assert all(f"Problem: {problem}" in result.err for problem in given["problems"])
        assert result.out.splitlines()[-1] == "3 cases, 2 with a label; 4 problems"
        assert next(line for line in result.out.splitlines() if line.startswith("train  u ")).count("unreadable") == 1

    def test_what_is_known_of_a_damaged_case_is_listed(self, scans):
        case = check(not_a_number(scans))[1]["cases"][0]
        assert case["shape"] == [9, 8, 7] and case["intensities"] == []
        assert case["labels"] == {str(value): (scans.training["a"].label == value).sum() for value in range(3)}

    def test_nothing_can_be_used(self, scans):
        recipe = scans.write()
        result = cli("medical", "check", recipe, "--set", "data.channels=2")
        assert result.code == 1 and result.out.splitlines()[-1] == "0 cases, 0 with a label; 1 problem"
        assert result.err.count("and 3 more have 1 channels, but data.channels is 2") == 1


def header(scans, change):
    """Write, then change the header of case a."""
    recipe = scans.write()
    for path in (scans.image("a"), scans.label("a")):
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()  # as: the file is written over
        change(image)
        nib.save(nib.Nifti1Image(array, None, image.header), path)
    return recipe


def unplaced(image):
    image.header["sform_code"] = image.header["qform_code"] = 0


def turned(image):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    image.header.set_qform(turn @ image.affine, 1)


class TestNotes:
    def note(self, recipe, *settings):
        code, given = check(recipe, *settings)
        assert code == 0, given
        assert len(given["notes"]) == 1, given["notes"]
        (note,) = given["notes"]
        return note

    def test_mixed_orientations(self, scans):
        scans.training["a"] = replace(scans.training["a"], axes="LPS")
        scans.unlabeled["u"] = replace(scans.unlabeled["u"], axes="LPS")
        assert "Files differ in orientation: LPS (2), RAS (2)." in self.note(scans.write())

    def test_unknown_orientation(self, scans):
        text = " ".join(check(header(scans, unplaced))[1]["notes"])
        assert "Orientation unknown: a does not say how the scan lies (NIfTI: sform_code and qform_code 0;" in text

    def test_sform_and_qform_disagree(self, scans):
        corners = np.array([[x, y] for x in (-0.5, 8.5) for y in (-0.625, 9.375)])
        apart = 2 * np.sin(0.15) * np.linalg.norm(corners, axis=1).max()  # chord of 0.3 rad
        note = self.note(header(scans, turned))
        assert f"sform and qform disagree by up to {apart:.3g} mm: a. The sform is used here" in note

    def test_spacings(self, scans):
        scans.training["a"] = replace(scans.training["a"], spacing=(1.0, 1.25, 0.4))
        note = self.note(scans.write())
        assert "0.4 to 1.5 mm along superior." in note and "Set data.layout.spacing" in note
        assert check(scans.write(), "data.layout.spacing=[1, 1, 1]")[1]["notes"] == []

    def test_anisotropic(self, scans):
        for section in (scans.training, scans.unlabeled, scans.validation):
            for name in section:
                section[name] = replace(section[name], spacing=(5.0, 1.25, 1.0))
        note = self.note(scans.write())
        assert "5 times as long along right" in note and "5 x 1.25 x 1 mm" in note and "dimensions = 2" in note
        assert check(scans.write(), "data.layout.dimensions=2")[1]["notes"] == []

    def test_no_common_scale(self, scans):
        scan = scans.unlabeled["u"]
        scan.voxels = scan.voxels.astype(np.int32) * 10_000
        high, low = scan.voxels.max(), min(s.voxels.max() for s in scans.training.values())
        note = self.note(scans.write())
        assert f"{high:.4g} (u)" in note and "zscore corrects this" in note
        assert low > 0 and 'Set data.layout.normalize = "zscore"' in self.note(
            scans.write(), "data.layout.normalize=none"
        )

    def test_outliers_that_flatten(self, scans):
        """One voxel of 1e9 takes all contrast; clipping gives it back, in the check and in what a network sees."""
        scan = scans.training["a"]
        scan.voxels = scan.voxels.astype(np.float32)
        assert scan.voxels.std() > 1
        before = zscore(scan.voxels[0])
        scan.voxels[0, 3, 4, 5] = 1e9
        note = self.note(scans.write())
        assert "Outliers flatten a (first up to 1e+09)" in note and "data.layout.clip = [0.5, 99.5]" in note
        assert check(scans.write(), "data.layout.clip=[0.5, 99.5]")[1]["notes"] == []
        inside = np.ones(before.shape, bool)
        inside[3, 4, 5] = False
        lost, kept = (zscore(scan.voxels[0], clip)[inside] for clip in (None, (0.5, 99.5)))
        assert lost.std() < 1e-3 and np.corrcoef(kept, before[inside])[0, 1] > 0.98 and 0.9 < kept.std() < 1.1
        for clip, text in (("[99, 1]", "two percentiles"), ("[1, 2, 3]", "two percentiles")):
            result = cli("medical", "check", scans.write(), "--set", f"data.layout.clip={clip}")
            assert result.code == 1 and text in result.err
        result = cli("check", scans.write(), "--set", "data.layout.clip=[1, 99]", "--set", "data.layout.normalize=none")
        assert result.code == 1 and 'is for normalize = "zscore"' in result.err

    @pytest.mark.parametrize("value", [0, 50])
    def test_images_of_one_value(self, scans, value):
        scans.unlabeled["u"].voxels[:] = value
        assert "All voxels of a channel are equal: u." in self.note(scans.write())

    def test_voxel_sizes_that_are_unusual_or_contradict(self, scans):
        for section in (scans.training, scans.unlabeled, scans.validation):
            for name in section:
                section[name] = replace(section[name], spacing=(0.001, 0.001, 0.001))
        assert "Unusual voxel sizes: a, b, u and 1 more (first 0.001 x 0.001 x 0.001 mm)" in self.note(scans.write())

    def test_computed_tomography(self, scans):
        scans.training["b"].voxels[0, 0] = -1000
        assert "down to -1000" in self.note(scans.write())
        needed = "needs data.layout.fingerprint, a file of `farcluss medical fingerprint`"
        assert needed in self.note(scans.write(), "data.layout.normalize=ct")
        assert check(scans.write(), "data.layout.normalize=none")[1]["notes"] == []

    def test_labels_without_foreground(self, scans):
        scans.training["b"].label[:] = 0
        scans.validation["v"].label[:] = 255
        assert "No voxel of a class other than background: b, v." in self.note(scans.write())

    def test_they_are_printed(self, scans):
        scans.training["b"].label[:] = 0
        assert "\nNote: No voxel of a class other than background: b." in cli("medical", "check", scans.write()).out
