"""`farcluss rs evaluate` on drawn scenes, against scikit-learn."""

import csv
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commandline import cli
from drawn_scenes import CLASSES, ROTATED, Drawing, draw_label, draw_scene, write
from rasterio.transform import Affine
from sklearn import metrics

from farcluss.errors import DataError
from farcluss_remote_sensing.evaluation import find_maps
from farcluss_remote_sensing.scenes import Scene
from farcluss_remote_sensing.scores import MapScores, to_csv

DRAWING = Drawing(dtype="float32", collar=6)
NOTHING = len(CLASSES)
"""What scikit-learn is told of pixels without a class in the map."""


@dataclass(frozen=True)
class Tree:
    """Scenes `s0`, `s1` and `deep/s2` with labels and maps; what counts of each, and what the map says, by scene."""

    root: Path
    truth: dict[str, np.ndarray]
    mapped: dict[str, np.ndarray]

    def call(self, *options, predictions="maps", val="val.txt"):
        classes = "{" + ", ".join(f"{name} = {value}" for value, name in enumerate(CLASSES, 1)) + "}"
        settings = {
            "data.layout": '{name="rasters", scaling="scale", factor=1.0, stats="", window=32}',
            "data.root": self.root,
            "data.channels": 5,
            "data.classes": classes,
            "data.ignore_index": "[0, 9]",
            "data.val": val,
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return cli("rs", "evaluate", "rs_geotiff", self.root / predictions, *words, *options)

    def scores(self, *options):
        result = self.call("--json", *options)
        assert result.code == 0, result
        return json.loads(result.out)

    def pixels(self, *scenes):
        """True and mapped classes `(N,)` of the pixels that count."""
        both = (self.truth, self.mapped)
        return tuple(np.concatenate([each[scene] for scene in scenes or self.truth]) for each in both)

    def map(self, scene):
        return self.root / "maps" / f"{scene}.tif"


def drawing_of(number):
    return DRAWING.but(seed=number, size=(70 + number, 53), transform=Affine.translation(5e3 * number, 0) @ ROTATED)


@pytest.fixture
def tree(tmp_path):
    """Maps with errors, with pixels that have no class, and an unlabeled part; `deep/s2` has no town in its map."""
    truth, mapped = {}, {}
    for number, scene in enumerate(("s0", "s1", "deep/s2")):
        drawing, rng = drawing_of(number), np.random.default_rng(number)
        draw_scene(tmp_path / "images" / f"{scene}.tif", drawing)
        label = drawing.classes() + 1
        label[drawing.invalid()] = 3  # labels say something where scenes do not
        label[60:, :20] = 9
        write(tmp_path / "labels" / f"{scene}.tif", label, drawing)
        found = np.where(rng.random(drawing.size) < 0.2, rng.integers(0, 4, drawing.size), drawing.classes())
        if number == 2:
            found[found == 3] = 1
        found[drawing.invalid() | (rng.random(drawing.size) < 0.03 * number)] = 255
        values = np.where(found == 255, 255, found + 1).astype(np.uint8)
        write(tmp_path / "maps" / f"{scene}.tif", values, drawing, nodata=255)
        counts = ~drawing.invalid() & (label != 9)
        truth[scene] = drawing.classes()[counts].astype(int)
        mapped[scene] = np.where(found == 255, NOTHING, found)[counts].astype(int)
    (tmp_path / "val.txt").write_text("s0\ns1\ndeep/s2\n")
    return Tree(tmp_path, truth, mapped)


def check(scores, truth, mapped):
    """All that scikit-learn knows as well."""
    known = {"labels": range(4), "zero_division": np.nan}
    columns = {
        "iou": metrics.jaccard_score(truth, mapped, average=None, labels=range(4)),
        "f1": metrics.f1_score(truth, mapped, average=None, **known),
        "recall": metrics.recall_score(truth, mapped, average=None, **known),
        "precision": metrics.precision_score(truth, mapped, average=None, **known),
    }
    for name, expected in columns.items():
        found = [row[name] for row in scores["classes"]]
        np.testing.assert_allclose([np.nan if value is None else value for value in found], expected, rtol=1e-12)
    assert scores["miou"] == pytest.approx(np.mean(columns["iou"]), rel=1e-12)
    assert scores["f1"] == pytest.approx(np.mean(columns["f1"]), rel=1e-12)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, mapped), rel=1e-12)
    assert scores["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, mapped), rel=1e-12)
    table = metrics.confusion_matrix(truth, mapped, labels=range(5))
    assert scores["confusion"] == table[:4, :4].tolist()
    assert [row["unmapped"] for row in scores["classes"]] == table[:4, 4].tolist()
    assert [row["pixels"] for row in scores["classes"]] == table[:4].sum(1).tolist()
    assert (scores["pixels"], scores["unmapped"]) == (len(truth), np.count_nonzero(mapped == NOTHING))


class TestScores:
    def test_all_scenes_together_and_each_alone(self, tree):
        scores = tree.scores()
        check(scores, *tree.pixels())
        assert [row["class"] for row in scores["classes"]] == list(CLASSES)
        assert [row["scene"] for row in scores["scenes"]] == list(tree.truth)
        for row in scores["scenes"]:
            check(row, *tree.pixels(row["scene"]))
        assert scores["unmapped"] > 0 and scores["missing"] == []

    def test_the_total_is_of_the_sum_of_the_scenes(self, tree):
        scores = tree.scores()
        assert np.sum([row["confusion"] for row in scores["scenes"]], axis=0).tolist() == scores["confusion"]
        assert scores["miou"] != pytest.approx(np.mean([row["miou"] for row in scores["scenes"]]), rel=1e-6)

    def test_windows_do_not_count_twice_and_lines_may_not(self, tree):
        assert tree.scores("--set", "data.layout.window=17") == tree.scores()
        (tree.root / "val.txt").write_text("s0\ns1\ndeep/s2\ns1\n")
        assert "more than once" in tree.call().refusal

    def test_a_perfect_map(self, tree):
        for number, scene in enumerate(tree.truth):
            draw_label(tree.root / "labels" / f"{scene}.tif", drawing_of(number))
            values = np.where(drawing_of(number).invalid(), 255, drawing_of(number).classes() + 1).astype(np.uint8)
            write(tree.map(scene), values, drawing_of(number), nodata=255)
        scores = tree.scores()
        assert [scores[name] for name in ("miou", "f1", "accuracy", "kappa")] == [1, 1, 1, 1]
        assert (scores["unmapped"], scores["pixels"]) == (0, sum((~drawing_of(n).invalid()).sum() for n in range(3)))

    def test_a_split_and_parts_of_scenes(self, tree):
        (tree.root / "part.txt").write_text("s1[0:40,0:53]\n")
        scores = tree.scores("--split", tree.root / "part.txt")
        counts = ~drawing_of(1).invalid()[:40]
        check(scores, drawing_of(1).classes()[:40][counts].astype(int), tree.mapped["s1"][: counts.sum()])

    def test_a_map_may_be_called_as_the_file_of_its_scene(self, tree):
        whole = tree.scores()
        tree.map("deep/s2").rename(tree.root / "maps" / "s2.tif")
        assert tree.scores() == whole


class TestFiles:
    def test_a_line_per_scene_and_everything_as_json(self, tree):
        result = tree.call("-o", tree.root / "out")
        assert result.code == 0 and "Wrote scores.csv and scores.json" in result.err
        scores = tree.scores()
        assert json.loads((tree.root / "out" / "scores.json").read_text()) == scores
        with open(tree.root / "out" / "scores.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["scene"] for row in rows] == list(tree.truth)
        for row, expected in zip(rows, scores["scenes"], strict=True):
            for name in ("pixels", "unmapped", "miou", "f1", "accuracy", "kappa"):
                assert float(row[name]) == expected[name]
            assert [float(row[f"iou_{name}"]) for name in CLASSES] == [one["iou"] for one in expected["classes"]]

    def test_the_table(self, tree):
        scores, text = tree.scores(), tree.call().out
        for row in scores["classes"]:
            (line,) = [line for line in text.splitlines() if line.startswith(f"{row['class']} ")]
            percents = [f"{100 * row[name]:.2f}" for name in ("iou", "f1", "recall", "precision")]
            assert line.split() == [row["class"], *percents, f"{row['pixels']:,}"]
        assert f"mIoU {100 * scores['miou']:.2f}   F1 " in text and f"kappa {scores['kappa']:.4f}" in text
        assert f"{scores['unmapped']:,} of {scores['pixels']:,} pixels" in text

    def test_a_scene_without_a_map(self, tree):
        tree.map("s1").unlink()
        result = tree.call("--json", "-o", tree.root / "out")
        assert result.code == 1 and "1 of 3 scenes have no map and are not scored: s1." in result.err
        scores = json.loads(result.out)
        assert scores["missing"] == ["s1"] and json.loads((tree.root / "out" / "scores.json").read_text()) == scores
        check(scores, *tree.pixels("s0", "deep/s2"))


class TestRefusals:
    def test_no_map_at_all(self, tree):
        (tree.root / "empty").mkdir()
        said = tree.call(predictions="empty").refusal
        assert "has no map for any of the 3 scenes; the first one would be s0.tif." in said

    def test_another_size(self, tree):
        write(tree.map("s0"), np.zeros((53, 70), np.uint8), drawing_of(0))
        assert "70 x 53 pixels instead of 53 x 70" in tree.call().refusal

    def test_another_place(self, tree):
        moved = drawing_of(0).but(transform=Affine.translation(0.1, 0) @ drawing_of(0).transform)
        write(tree.map("s0"), np.zeros((70, 53), np.uint8), moved)
        assert "is not on the grid of its scene" in tree.call().refusal

    def test_another_coordinate_reference_system(self, tree):
        write(tree.map("s0"), np.zeros((70, 53), np.uint8), drawing_of(0).but(crs="EPSG:32632"))
        assert "EPSG:32632 instead of EPSG:32633" in tree.call().refusal

    @pytest.mark.parametrize(("values", "said"), [(np.uint8(0), "the value 0 (uint8)"), (np.float32(0.5), "float32")])
    def test_what_is_no_class(self, tree, values, said):
        write(tree.map("s0"), np.full((70, 53), values), drawing_of(0))
        refusal = tree.call().refusal
        assert said in refusal and "classes holds 1, 2, 3, 4, and" in refusal

    def test_a_scene_without_a_label(self, tree):
        draw_scene(tree.root / "images" / "s9.tif", drawing_of(9))
        (tree.root / "val.txt").write_text("s9\n")
        assert "s9[0:26,0:26] has no label to score a map against" in tree.call().refusal

    def test_a_layout_without_scenes(self, tree):
        result = cli("rs", "evaluate", "quickstart", tree.root / "maps")
        assert "'shapes' is not a layout of scenes." in result.refusal

    def test_nothing_to_score(self, tree):
        assert "There are no scenes to score" in tree.call(val="none").refusal

    def test_a_folder_that_is_not_there(self, tree):
        assert tree.call(predictions="nowhere").code == 2


class TestMaps:
    scenes = (Scene("a/x", ("root/a/x.tif",)), Scene("b/x", ("root/b/x.tif",)), Scene("c", ("root/first_band.tif",)))

    def test_a_name_that_two_files_have_is_no_scenes(self, tmp_path):
        (tmp_path / "x.tif").touch()
        (tmp_path / "first_band.tif").touch()
        assert find_maps(tmp_path, self.scenes) == {"c": tmp_path / "first_band.tif"}

    def test_the_name_of_a_scene_comes_first(self, tmp_path):
        for name in ("c", "first_band"):
            (tmp_path / f"{name}.tif").touch()
        assert find_maps(tmp_path, self.scenes) == {"c": tmp_path / "c.tif"}

    @pytest.mark.parametrize(
        ("scene", "place"),
        [
            (Scene("s", ("/data/test/A/s.png", "/data/test/B/s.png")), "A/s"),
            (Scene("test/s", ("/data/test/A/s.png", "/data/test/B/s.png")), "test/A/s"),
            (Scene("x", ("/data/images/x/B02.tif", "/data/images/x/B03.tif")), "x/x"),
            (Scene("x", ("/data/images/x_B02.tif", "/data/images/x_B03.tif")), "images/x"),
            (Scene("b/x", ("/data/b/x.tif",)), "data/b/x"),
        ],
    )
    def test_maps_of_folders_are_found_where_they_are_written(self, tmp_path, scene, place):
        path = tmp_path / f"{place}.tif"
        path.parent.mkdir(parents=True)
        path.touch()
        others = [Scene("other/x", ("/data/other/x.tif",)), Scene("other/s", ("/data/other/s.tif",))]
        assert find_maps(tmp_path, [scene, *others]) == {scene.id: path}

    def test_there_is_none(self, tmp_path):
        with pytest.raises(DataError, match=r"a/x\.tif"):
            find_maps(tmp_path, self.scenes)


class TestConfusion:
    def of(self, rows, names="abc", change=False):
        return MapScores(np.array(rows, np.int64), tuple(names), change)

    def test_an_absent_class_is_left_out_of_means(self):
        scores = self.of([[6, 2, 0, 0], [1, 3, 0, 1], [0, 0, 0, 0]])
        numbers, plain = scores.numbers(), scores.to_json()
        assert numbers["miou"] == pytest.approx((6 / 9 + 3 / 7) / 2)
        assert numbers["f1"] == pytest.approx((12 / 15 + 6 / 10) / 2)
        assert plain["classes"][2] == {
            "class": "c", "iou": None, "f1": None, "recall": None, "precision": None, "pixels": 0, "unmapped": 0,
        }  # fmt: skip

    def test_unmapped_pixels_cost_recall_and_no_precision(self):
        scores = self.of([[6, 0, 2], [0, 4, 0]], "ab")
        assert scores.precision.tolist() == [1, 1] and scores.recall.tolist() == [0.75, 1]
        assert scores.iou.tolist() == [0.75, 1] and scores.numbers()["accuracy"] == pytest.approx(10 / 12)

    @pytest.mark.parametrize("seed", range(8))
    def test_kappa(self, seed):
        rng = np.random.default_rng(seed)
        truth, mapped = rng.integers(0, 3, 60), rng.integers(0, 4, 60)
        table = metrics.confusion_matrix(truth, mapped, labels=range(4))[:3]
        assert self.of(table).kappa == pytest.approx(metrics.cohen_kappa_score(truth, mapped), abs=1e-12)

    def test_kappa_of_what_chance_gets_right(self):
        assert np.isnan(self.of([[5, 0, 0], [0, 0, 0]], "ab").kappa)
        assert self.of([[5, 0, 0], [0, 0, 0]], "ab").to_json()["kappa"] is None

    def test_a_scene_without_a_pixel_that_counts(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = self.of([[0, 0, 0], [0, 0, 0]], "ab", change=True)
            assert all(np.isnan(value) for value in scores.numbers().values())
            assert to_csv({"x": scores}).splitlines()[1] == "x,0,0" + ",nan" * 8

    def test_change_comes_first(self):
        scores = self.of([[90, 3, 0], [2, 5, 0]], ("unchanged", "changed"), change=True)
        assert list(scores.numbers())[:2] == ["changed_iou", "changed_f1"]
        assert scores.numbers()["changed_iou"] == 5 / 10 and scores.to_json()["changed_f1"] == 10 / 15


def test_two_classes_of_change_have_their_headline(tree):
    (tree.root / "two").mkdir()
    label, found = np.zeros((70, 53), np.uint8), np.zeros((70, 53), np.uint8)
    label[10:20, 10:20], found[12:20, 10:20] = 1, 1
    write(tree.root / "labels" / "s0.tif", label, drawing_of(0))
    write(tree.root / "two" / "s0.tif", found, drawing_of(0))
    (tree.root / "val.txt").write_text("s0\n")
    words = ("--set", 'data.classes=["unchanged", "changed"]', "--set", "data.ignore_index=9")
    result = tree.call("--json", *words, predictions="two")
    assert result.code == 0, result
    scores = json.loads(result.out)
    assert (scores["changed_iou"], scores["changed_f1"]) == (0.8, pytest.approx(160 / 180))
    assert tree.call(*words, predictions="two").out.splitlines()[-1].startswith("changed IoU 80.00   changed F1 88.89")
