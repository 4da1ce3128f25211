"""What is wrong with scenes, drawn and found; and nothing found where nothing is wrong."""

import json

import numpy as np
import pytest
import rasterio
from checked_scenes import PLAIN, data_of, findings, scene, shifted
from commandline import cli
from drawn_scenes import GEOGRAPHIC, NORTH_UP, ROTATED, Drawing, draw_label, draw_scene, write
from drawn_scenes import draw_tree as tree_of
from rasterio.transform import Affine
from scene_recipes import write_recipe

from farcluss_remote_sensing.files import read_header
from farcluss_remote_sensing.frames import border_boxes, longest_run
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene

CLEAN = {
    "plain": PLAIN,
    "rotated": Drawing(transform=ROTATED),
    "geographic": Drawing(crs="EPSG:4326", transform=GEOGRAPHIC),
    "nodata": Drawing(nodata=0, collar=6),
    "nan": Drawing(dtype="float32", collar=6),
    "bytes": Drawing(dtype="uint8", bands=3),
}


class TestClean:
    @pytest.mark.parametrize("drawing", CLEAN.values(), ids=CLEAN)
    def test_drawn_trees(self, tmp_path, drawing):
        def at(place):
            return shifted(53 * place, 70 * (place // 2), drawing)  # edges and corners touch

        splits = {"train": [scene(tmp_path, "a", at(0)), scene(tmp_path, "b", at(1), labeled=False)]}
        splits |= {"val": [scene(tmp_path, "c", at(2))], "test": [scene(tmp_path, "d", at(3))]}
        assert findings(tmp_path, splits, 30, channels=drawing.bands) == []

    def test_pictures_lie_nowhere(self, tmp_path):
        picture = Drawing(bands=3, dtype="uint8", crs=None, transform=Affine.identity())
        splits = {name: [scene(tmp_path, name, picture.but(seed=ord(name[0])))] for name in ("train", "val")}
        assert findings(tmp_path, splits, channels=3) == []

    def test_check_of_a_recipe(self, tmp_path):
        recipe = write_recipe(tree_of(tmp_path, labeled=3), ', scaling = "scale"', val="1/3")
        result = cli("check", recipe)
        assert result.code == 0 and "ready to run" in result.out, result


class TestFrames:
    @pytest.mark.parametrize("drawing", [Drawing(collar=6), Drawing(collar=6, dtype="uint8", bands=3)])
    def test_a_collar_without_nodata(self, tmp_path, drawing):
        (found,) = findings(
            tmp_path, {"train": [scene(tmp_path, "a", drawing)]}, val="none", channels=drawing.bands
        )  # fmt: skip
        assert "a.tif" in found and "is 0 in all bands" in found and "data.layout.nodata = 0" in found
        share = float(found.split(": ")[1].split(" %")[0])
        assert share == pytest.approx(100 * (70 + 2 * 6) / (2 * (70 + 53)), abs=4)

    def test_a_turned_scene_in_a_frame(self, tmp_path):
        values = Drawing(size=(300, 300)).values()
        rows, columns = np.indices((300, 300))
        values[:, rows + columns < 60] = 65535
        image = str(write(tmp_path / "a.tif", values, Drawing()))
        (found,) = findings(tmp_path, {"train": [Scene("a", (image,), None), scene(tmp_path, "b")]}, val="none")
        assert "is 65535 in all bands" in found and "data.layout.nodata = 65535" in found

    def test_some_pixels_or_one_band_may_be_constant(self, tmp_path):
        values = Drawing(size=(100, 100)).values()
        values[:, :6, :15] = 0  # 3.75 % of the border
        values[2, :, :9] = 0
        image = str(write(tmp_path / "a.tif", values, Drawing()))
        assert findings(tmp_path, {"train": [Scene("a", (image,)), scene(tmp_path, "b")]}, val="none") == []

    def test_runs(self):
        values = np.array([1, np.nan, np.nan, np.nan, np.nan, 0, 2, 2, 2, 1.0])
        assert longest_run(values) == (0.3, 2.0)
        assert longest_run(np.roll(values, 3)) == (0.3, 2.0)
        assert longest_run(np.array([2.0, 1, 1, 2, 2])) == (0.6, 2.0)
        assert longest_run(np.zeros(5)) == (1.0, 0.0)
        assert longest_run(np.full(5, np.nan))[0] == 0.0

    @pytest.mark.parametrize("size", [(70, 53), (1, 1), (3, 900), (2000, 1500)])
    def test_places_lie_along_the_border(self, size):
        boxes = border_boxes(size)
        assert len(boxes) == min(128, 2 * sum(size))
        for rows, columns in boxes:
            assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
            assert rows.start == 0 or columns.start == 0 or rows.stop == size[0] or columns.stop == size[1]
        sides = [sum(r.start == 0 for r, _ in boxes), sum(c.start == 0 for _, c in boxes)]
        if min(size) > 4:
            assert sides[0] / len(boxes) == pytest.approx(size[1] / 2 / sum(size), abs=0.05)
            assert sides[1] / len(boxes) == pytest.approx(size[0] / 2 / sum(size), abs=0.05)


def test_a_run_warns_of_what_check_refuses(tmp_path):
    for number in range(4):
        draw_scene(tmp_path / "images" / f"s{number}.tif", Drawing(collar=6, seed=number))
        if number < 2:
            draw_label(tmp_path / "labels" / f"s{number}.tif")
    recipe = write_recipe(tmp_path, ', scaling = "scale"', val="1/2")
    result = cli("run", recipe, "--output", tmp_path / "run")
    assert result.code == 0, result
    lines = [
        line for line in (tmp_path / "run" / "log.txt").read_text().splitlines() if "`farcluss check` refuses" in line
    ]
    assert len(lines) == 2
    assert "of the border is 0 in all bands (and 3 more files)" in lines[0]
    assert "show the same ground" in lines[1] and "(and 2 more pairs)" in lines[1]
    problems = json.loads(cli("check", recipe, "--no-step", "--json").out)["problems"]
    assert [text.count("\n") for text in problems] == [3, 2]


class TestBands:
    """What weights files say of the bands of training, and scenes whose bands are others."""

    @pytest.fixture
    def named(self, tmp_path):
        def draw(name, bands):
            one = scene(tmp_path, name)
            with rasterio.open(one.images[0], "r+") as file:
                file.descriptions = bands
            return one

        return draw

    def test_type_and_names_are_kept_without_statistics(self, tmp_path, named):
        index = Index({"train": [named("a", "BGRNS"), named("b", "BGRNS")]})
        carried = scene_dataset(data_of(tmp_path), index, scaling="scale").carried
        for name, band in zip("BGRNS", carried.layout.options["stats"], strict=True):
            assert (band["dtype"], band["name"]) == ("uint16", name)
            assert 500 < band["mean"] < 9_500 and 100 < band["std"] < 4_000  # of a sample, see `predict`'s notes

    def test_another_order_is_a_problem(self, tmp_path, named):
        (found,) = findings(tmp_path, {"train": [named("a", "BGRNS"), named("b", "RGBNS")]}, val="none")
        assert "b.tif has the bands R, G, B, N, S, but in training they are B, G, R, N, S" in found

    def test_a_value_apart_from_all_others_is_a_problem(self, tmp_path):
        bands = [{"mean": 1.0, "std": 1.0, "apart": -9999} for _ in range(5)]
        index = Index({"train": [scene(tmp_path, "a")]})
        (found,) = scene_dataset(data_of(tmp_path, val="none"), index, stats=bands).findings()
        assert "data.layout.nodata = -9999" in found

    def test_a_frame_that_the_recipe_calls_nodata(self, tmp_path):
        one = scene(tmp_path, "a", Drawing(collar=6))
        dataset = scene_dataset(data_of(tmp_path, val="none"), Index({"train": [one]}), scaling="scale", nodata=0)
        assert dataset.findings() == []
        valid = dataset.read(dataset.items("train")[0]).valid
        np.testing.assert_array_equal(valid, ~Drawing(collar=6).invalid())


class TestLabels:
    def test_nodata_and_band_of_the_recipe(self, tmp_path):
        one = scene(tmp_path, "a", PLAIN)
        label = np.stack([PLAIN.classes() * 0 + 9, PLAIN.classes() + 1]).astype(np.uint8)
        write(tmp_path / "a-label.tif", label, Drawing(), nodata=1)
        how = {"scaling": "scale", "label_nodata": 2, "label_band": 2}
        dataset = scene_dataset(data_of(tmp_path, val="none"), Index({"train": [one]}), **how)
        mask = dataset.read(dataset.items("train")[0]).mask
        np.testing.assert_array_equal(mask, np.where(PLAIN.classes() == 1, 255, PLAIN.classes()))

    @pytest.mark.parametrize("profile", [{"compress": "jpeg"}, {"driver": "JPEG"}, {"driver": "JP2OpenJPEG"}])
    def test_losses(self, tmp_path, profile):
        one = scene(tmp_path, "a")
        name = "label.jpg" if profile.get("driver") == "JPEG" else "label.tif"
        drawing = Drawing(transform=Affine.translation(10_000.0 * ord("a"), 0) @ NORTH_UP)
        label = write(tmp_path / name, drawing.classes() + 1, drawing, **profile)
        (found,) = findings(tmp_path, {"train": [Scene("a", one.images, str(label))]}, val="none")
        assert f"{name} has lossy compression" in found

    @pytest.mark.parametrize("profile", [{"compress": "deflate"}, {"compress": "lzw"}, {"driver": "PNG"}])
    def test_no_losses(self, tmp_path, profile):
        assert not read_header(str(write(tmp_path / "a", Drawing().classes(), Drawing(), **profile))).lossy

    @pytest.mark.parametrize(
        ("nodata", "text"), [(1, "declares 1 as nodata, but that is the class water"), (0, ""), (9, "")]
    )
    def test_a_class_that_the_file_calls_no_data(self, tmp_path, nodata, text):
        one = scene(tmp_path, "a")
        with rasterio.open(one.label, "r+") as file:
            file.nodata = nodata
        found = findings(tmp_path, {"train": [one]}, val="none")
        assert [text in each and "label_nodata" in each for each in found] == ([True] if text else [])

    def test_unknown_values_are_named_with_their_file(self, tmp_path):
        root = tree_of(tmp_path, labeled=2, unlabeled=1)
        write(root / "labels" / "s0.tif", Drawing().classes() + np.uint8(3), Drawing())
        result = cli("check", write_recipe(root, ', scaling = "scale"', val="none"), "--json")
        assert result.code == 1, result
        (found,) = json.loads(result.out)["problems"]
        assert str(root / "labels" / "s0.tif") in found and "5, 6" in found
