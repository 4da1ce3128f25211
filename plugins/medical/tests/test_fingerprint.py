"""The fingerprint against NumPy on the arrays that the files were written from, and what is made of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from commandline import cli
from small_scans import Scan, Scans, draw

from farcluss.data.splits import resolve
from farcluss.learning.build import build_dataset
from farcluss.recipes.reading import load_recipe
from farcluss_medical.fingerprint import SAMPLES, suggest_crop, suggest_spacing

SHAPES = {"a": (9, 8, 7), "b": (10, 12, 8), "c": (9, 10, 9)}


@pytest.fixture
def scans(tmp_path):
    training = {name: draw(seed, shape, 2) for seed, (name, shape) in enumerate(SHAPES.items())}
    return Scans(
        tmp_path / "set",
        training,
        {
            "u": draw(7, (20, 8, 8), 2, labeled=False, spacing=(2.0, 1.0, 1.0)),
            "w": draw(8, (9, 8, 8), 2, labeled=False),
        },
        {"v": draw(9, (30, 30, 30), 2)},
    )


def measure(recipe, *settings):
    output = recipe.parent / "fingerprint.json"
    words = [word for setting in settings for word in ("--set", setting)]
    result = cli("medical", "fingerprint", recipe, "-o", output, *words)
    assert (result.code, result.err) == (0, ""), result
    return json.loads(output.read_text())


def foreground(scans):
    """Voxels `(C, N)` of classes other than the first, float64."""
    return np.concatenate([s.voxels[:, s.label > 0] for s in scans.training.values()], axis=1).astype(np.float64)


def statistics(voxels):
    low, median, high = np.percentile(voxels, [0.5, 50, 99.5], axis=1)
    columns = {"low": low, "high": high, "mean": voxels.mean(1), "std": voxels.std(1), "median": median}
    return [{key: column[index] for key, column in columns.items()} for index in range(len(voxels))]


class TestMeasured:
    def test_intensities_are_those_of_labeled_foreground(self, scans):
        given = measure(scans.write())["intensities"]
        expected = statistics(foreground(scans))
        assert len(given) == 2
        for mine, theirs in zip(given, expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)

    def test_geometry_is_that_of_training_cases(self, scans):
        facts = measure(scans.write())
        assert (facts["version"], facts["labeled"], facts["unlabeled"]) == (1, 3, 2)
        cases = {case["case"]: case for case in facts["cases"]}
        assert set(cases) == {"a", "b", "c", "u", "w"}
        assert cases["b"] == {"case": "b", "labeled": True, "shape": [10, 12, 8], "spacing": [1.0, 1.25, 1.5]}
        assert cases["u"] == {"case": "u", "labeled": False, "shape": [20, 8, 8], "spacing": [2.0, 1.0, 1.0]}
        assert facts["median_shape"] == np.median([*SHAPES.values(), (20, 8, 8), (9, 8, 8)], axis=0).tolist()
        assert facts["spacing"] == facts["median_spacing"] == [1.0, 1.25, 1.5]

    def test_voxels_of_classes(self, scans):
        counts = measure(scans.write())["class_voxels"]
        labels = np.concatenate([scan.label.ravel() for scan in scans.training.values()])
        assert counts == dict(zip(scans.labels.values(), np.bincount(labels).tolist(), strict=True))

    def test_other_cases_have_no_influence(self, scans):
        """Neither their intensities nor their labels, nor the shape of those that are held out."""
        clean = measure(scans.write())
        for section in (scans.unlabeled, scans.validation):
            for name, scan in section.items():
                section[name] = replace(scan, voxels=scan.voxels + np.int16(20_000))
        scans.validation["v"] = replace(draw(11, (40, 9, 60), 2), spacing=(9.0, 9.0, 9.0))
        assert measure(scans.write()) == clean

    def test_labels_of_cases_drawn_to_be_unlabeled_have_none(self, scans):
        facts = measure(scans.write(), "data.labeled=1/3")
        (chosen,) = [case["case"] for case in facts["cases"] if case["labeled"]]
        assert (facts["labeled"], facts["unlabeled"]) == (1, 4)
        scans.training = {chosen: scans.training[chosen]}
        assert facts["intensities"][0] == pytest.approx(statistics(foreground(scans))[0], rel=1e-12)

    def test_held_out_shares_are_left_out(self, scans):
        facts = measure(scans.write(), "data.val=1/3")
        assert (facts["labeled"], len(facts["cases"])) == (2, 4)

    def test_unlabeled_voxels_are_never_read(self, scans):
        recipe = scans.write()
        path = scans.image("u")
        path.write_bytes(path.read_bytes()[:400])
        assert measure(recipe)["unlabeled"] == 2

    @pytest.mark.parametrize("axes", ["LPS", "SRA", "PIL"])
    def test_the_order_of_files_does_not_matter(self, scans, axes):
        scans.training["large"] = draw(3, (24, 25, 26), 2)  # of which a sample is drawn
        expected = measure(scans.write())
        for section in (scans.training, scans.unlabeled):
            for name in section:
                section[name] = replace(section[name], axes=axes)
        assert measure(scans.write()) == expected

    def test_float32_headers_do_not_show(self, scans):
        scans.training = {name: replace(scan, spacing=(0.7, 0.7, 2.2)) for name, scan in scans.training.items()}
        scans.unlabeled = {}
        assert measure(scans.write("unlabeled = 'none'"))["spacing"] == [0.7, 0.7, 2.2]

    def test_ignored_voxels_do_not_count(self, scans):
        for scan in scans.training.values():
            scan.label[2:4] = 255
        facts = measure(scans.write())
        for scan in scans.training.values():
            scan.label[2:4] = 0
        assert facts["intensities"][1] == pytest.approx(statistics(foreground(scans))[1], rel=1e-12)
        assert facts["class_voxels"]["background"] < sum((scan.label == 0).sum() for scan in scans.training.values())


class TestSamples:
    """Percentiles are of at most `SAMPLES` voxels of a case, mean and deviation of all."""

    def test_large_cases_do_not_outweigh_others(self, tmp_path):
        big, small = np.full((1, 30, 30, 30), 5, np.int16), np.full((1, 5, 5, 4), 7, np.int16)
        training = {name: Scan(v, np.ones(v.shape[1:], np.uint8)) for name, v in {"big": big, "small": small}.items()}
        (given,) = measure(Scans(tmp_path / "set", training).write("val = 'none'\nunlabeled = 'none'"))["intensities"]
        assert 100 / (27_000 + 100) < 0.005 < 100 / (SAMPLES + 100)  # what the expectation rests on
        voxels = np.concatenate([big.ravel(), small.ravel()]).astype(np.float64)
        expected = {"low": 5, "high": 7, "median": 5, "mean": voxels.mean(), "std": voxels.std()}
        assert given == pytest.approx(expected, rel=1e-12)

    def test_a_sample_is_near_the_whole(self, tmp_path):
        scan = draw(1, (40, 40, 40))
        scans = Scans(tmp_path / "set", {"a": scan})
        facts = measure(scans.write("val = 'none'\nunlabeled = 'none'"))
        (expected,) = statistics(foreground(scans))
        assert facts["intensities"][0] == pytest.approx(expected, abs=2)
        assert facts["intensities"][0]["std"] == pytest.approx(expected["std"], rel=1e-12)

    def test_deviations_far_from_zero(self, tmp_path):
        scans = Scans(tmp_path / "set", {name: draw(seed, (9, 9, 9)) for seed, name in enumerate("ab")})
        for scan in scans.training.values():
            scan.voxels = scan.voxels.astype(np.int32) + 10_000_000
        (given,) = measure(scans.write("val = 'none'\nunlabeled = 'none'"))["intensities"]
        assert given["std"] == pytest.approx(foreground(scans).std(), rel=1e-9)


class TestSlices:
    def test_only_labeled_slices_count(self, scans):
        """Slices 1 and 5 of a file whose superior axis runs downward, counted upward."""
        scan = replace(scans.training["b"], axes="RAI")
        scans.training["b"] = scan
        recipe = scans.write("labeled = 'few.txt'")
        (scans.root / "few.txt").write_text("b/001\nb/005\n")
        facts = measure(recipe, "data.layout.dimensions=2", "data.layout.slice_axis=2")
        assert (facts["labeled"], facts["unlabeled"]) == (1, 4)
        voxels, label = scan.voxels[..., [1, 5]], scan.label[..., [1, 5]]
        expected = statistics(voxels[:, label > 0].astype(np.float64))
        for mine, theirs in zip(facts["intensities"], expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)
        assert list(facts["class_voxels"].values()) == np.bincount(label.ravel()).tolist()
        assert len(facts["crop"]) == 2

    def test_whole_cases_count_whole_whatever_they_are_resampled_to(self, scans):
        recipe = scans.write()
        slices = measure(recipe, "data.layout.dimensions=2", "data.layout.spacing=[2, 2, 2]")
        assert slices["intensities"] == measure(recipe)["intensities"]


THICK = [(1, 1, step) for step in (4, 5, 5, 6, 10)]


class TestSuggestions:
    @pytest.mark.parametrize(
        ("spacings", "shape", "expected"),
        [
            ([(1, 1, 1), (2, 3, 4), (2, 2, 9)], (50, 50, 50), (2, 2, 4)),
            (THICK, (100, 100, 20), (1, 1, 4.4)),  # 4 + 0.4 (5 - 4)
            (THICK, (100, 100, 34), (1, 1, 5)),  # thick, but as many voxels as a third of the others
            ([(1, 1, 3)] * 5, (100, 100, 20), (1, 1, 3)),  # three times, not more
            ([(z, y, x) for x, y, z in THICK], (20, 100, 100), (4.4, 1, 1)),
            ([(1, 1, step) for step in (0.5, 0.5, 5, 5, 5)], (100, 100, 20), (1, 1, 1)),  # no finer than the others
            ([(1, 5, 5), (1, 5, 6), (1, 5, 5)], (90, 10, 10), (1, 5, 5)),  # not coarser than both others
        ],
    )
    def test_spacing(self, spacings, shape, expected):
        given = suggest_spacing(np.array(spacings, float), np.array([shape] * len(spacings), float))
        assert given == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("spacing", "shape", "voxels", "expected"),
        [
            ((1, 1, 1), (500, 500, 500), 128**3, (128, 128, 128)),
            ((2, 2, 2), (500, 500, 500), 128**3, (128, 128, 128)),
            ((1, 1, 2), (500, 500, 500), 128**3, (160, 160, 80)),  # 161.3, 161.3, 80.6
            ((1, 1, 5), (256, 256, 20), 128**3, (256, 256, 16)),  # all of it is less than 128^3
            ((1, 1, 5), (512, 512, 32), 128**3, (256, 256, 32)),  # sqrt(128^3 / 32) = 256 where 32 are all there are
            ((1, 1, 1), (35, 50, 36), 128**3, (32, 48, 32)),
            ((1, 1, 1), (31, 15, 7), 128**3, (24, 8, 7)),
            ((1, 1), (600, 600), 512**2, (512, 512)),
            ((1, 2), (2000, 2000), 512**2, (720, 352)),  # 724.1, 362.0
        ],
    )
    def test_crop(self, spacing, shape, voxels, expected):
        assert suggest_crop(spacing, shape, voxels) == expected

    def test_every_crop_fits(self):
        rng = np.random.default_rng(0)
        for _ in range(300):
            spacing, shape = rng.uniform(0.3, 8, 3), rng.integers(1, 600, 3)
            crop = suggest_crop(spacing, shape, 64**3)
            assert np.prod(crop) <= 64**3 and (np.array(crop) <= shape).all() and min(crop) > 0
            assert all(side % (16 if side >= 32 else 8 if side >= 8 else 1) == 0 for side in crop)

    def test_the_crop_is_of_the_resampled_image(self, tmp_path):
        """40 mm on each axis: 100 voxels of 0.4 mm become 50 of the median 0.8 mm."""
        steps = {"a": 0.4, "b": 0.8, "c": 0.8}
        training = {name: draw(1, (round(40 / step), 40, 40), spacing=(step, 1.0, 1.0)) for name, step in steps.items()}
        facts = measure(Scans(tmp_path / "set", training).write("val = 'none'\nunlabeled = 'none'"))
        assert facts["spacing"] == [0.8, 1.0, 1.0] and facts["crop"] == [48, 32, 32]


class TestUse:
    @pytest.fixture
    def recipe(self, scans):
        """Of CT, from before there is a fingerprint to after."""
        recipe = scans.write()
        settings = ["data.layout.normalize=ct", "data.layout.spacing=fingerprint"]
        measure(recipe, *settings, f"data.layout.fingerprint={scans.root}/fingerprint.json")
        return load_recipe(str(recipe), (), (*settings, "data.layout.fingerprint=fingerprint.json"))

    def test_ct_is_clipped_and_scaled(self, recipe, scans):
        dataset = build_dataset(recipe.data)
        facts = statistics(foreground(scans))
        for item in resolve(dataset, recipe.data).labeled:
            raw = scans.training[item.id].voxels.astype(np.float64)
            for mine, channel, f in zip(dataset.read(item).image, raw, facts, strict=True):
                np.testing.assert_allclose(mine, (channel.clip(f["low"], f["high"]) - f["mean"]) / f["std"], atol=1e-5)

    def test_cases_are_resampled_to_the_suggestion(self, recipe):
        dataset = build_dataset(recipe.data)
        (item,) = [item for item in dataset.items("train") if item.id == "u"]
        assert dataset.size(item) == (40, 6, 5)  # 20 x 2.0 / 1.0, 8 x 1.0 / 1.25, 8 x 1.0 / 1.5

    def test_what_weights_carry_needs_no_file(self, recipe, scans):
        dataset = build_dataset(recipe.data)
        carried = dataset.carried
        (scans.root / "fingerprint.json").unlink()
        json.loads(carried.model_dump_json())  # as a card has it
        again = build_dataset(type(carried).model_validate_json(carried.model_dump_json()))
        assert again.preprocessing == dataset.preprocessing and again.classes == dataset.classes
        before = [dataset.read(item) for item in dataset.items("val")]
        shutil.rmtree(dataset.cache.folder)
        for first, second in zip(before, map(again.read, again.items("val")), strict=True):
            np.testing.assert_array_equal(first.image, second.image)
            np.testing.assert_array_equal(first.mask, second.mask)

    def test_constant_foreground_gives_finite_values(self, tmp_path):
        scans = Scans(tmp_path / "set", {"a": draw(0, (9, 9, 9))})
        scans.training["a"].voxels[:, scans.training["a"].label > 0] = 70
        recipe = scans.write("val = 'none'\nunlabeled = 'none'")
        measure(recipe)
        settings = ("data.layout.normalize=ct", "data.layout.fingerprint=fingerprint.json")
        dataset = build_dataset(load_recipe(str(recipe), (), settings).data)
        assert (dataset.read(dataset.items("train")[0]).image == 0).all()


class TestCommand:
    def test_it_says_what_to_do_with_it(self, scans, tmp_path, monkeypatch):
        recipe = scans.write()
        monkeypatch.chdir(tmp_path)
        result = cli("medical", "fingerprint", recipe, "--set", "data.labeled=2/3")
        facts = json.loads((tmp_path / "fingerprint.json").read_text())
        assert f"--set data.crop='{facts['crop']}'" in result.out
        assert "--set data.layout.spacing='[1.0, 1.25, 1.5]'" in result.out
        assert "--set data.layout.normalize=ct --set data.layout.fingerprint=fingerprint.json" in result.out
        assert "wrote fingerprint.json: 2 labeled and 3 unlabeled cases" in result.out
        assert not (scans.root / "cache").exists()

    def test_no_foreground(self, scans, tmp_path):
        for scan in scans.training.values():
            scan.label[:] = 0
        result = cli("medical", "fingerprint", scans.write(), "-o", tmp_path / "f.json")
        assert "None of the 3 labeled cases has a voxel of a class other than 'background'" in result.refusal
        assert not (tmp_path / "f.json").exists()

    @pytest.mark.parametrize("command", ["fingerprint", "check"])
    def test_a_layout_of_pictures(self, command):
        assert 'data.layout = "shapes" is not a layout of volumes' in cli("medical", command, "quickstart").refusal

    def test_a_label_with_unknown_values(self, scans, tmp_path):
        scans.training["b"].label[3] = 9
        result = cli("medical", "fingerprint", scans.write(), "-o", tmp_path / "f.json")
        assert f"{scans.label('b')} holds the value 9" in result.refusal
