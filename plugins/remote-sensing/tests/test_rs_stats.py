"""Statistics of bands against NumPy on the arrays that the scenes were written from."""

import json
import warnings

import numpy as np
import pytest
from commandline import cli
from drawn_scenes import Drawing, draw_label, draw_scene, draw_tree, write
from scene_recipes import write_recipe

from farcluss.recipes.model import Data
from farcluss_remote_sensing import statistics
from farcluss_remote_sensing.boxes import area, disjoint
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene
from farcluss_remote_sensing.statistics import Band, from_key, to_keys

KEYS = ["dtype", "count", "mean", "std", "min", "max", "low", "high"]
DRAWINGS = {
    "plain": Drawing(),
    "nodata": Drawing(nodata=0, collar=9),
    "signed": Drawing(dtype="int16", nodata=-1, collar=9),
    "bytes": Drawing(dtype="uint8", nodata=0, collar=9),
    "nan": Drawing(dtype="float32", collar=9),
}


def measure(recipe, *settings):
    output = recipe.parent / "stats.json"
    words = [word for setting in settings for word in ("--set", setting)]
    result = cli("rs", "stats", recipe, "-o", output, *words)
    assert (result.code, result.err) == (0, ""), result
    return json.loads(output.read_text()), result.out


def expected(values, dtype):
    """Of one band `(n,)`, in float64."""
    exact = values.astype(np.float64)
    ordered = np.sort(exact)
    low, high = (ordered[(len(exact) - 1) * share // 1000] for share in (5, 995))
    return {"dtype": dtype, "count": len(exact), "mean": exact.mean(), "std": exact.std(),
            "min": exact.min(), "max": exact.max(), "low": low, "high": high}  # fmt: skip


def pixels(*drawings):
    """`(C, n)` valid values of drawings."""
    return np.concatenate([drawing.values()[:, ~drawing.invalid()] for drawing in drawings], axis=1)


def check(found, values, dtype):
    assert len(found) == len(values)
    for mine, band in zip(found, values, strict=True):
        assert list(mine) == KEYS
        theirs = expected(band, dtype)
        assert mine == {**theirs, "mean": pytest.approx(theirs["mean"]), "std": pytest.approx(theirs["std"])}


class TestMeasured:
    @pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
    @pytest.mark.parametrize("side", [1024, 16])
    def test_bands_of_labeled_and_unlabeled_scenes(self, tmp_path, monkeypatch, drawing, side):
        monkeypatch.setattr(statistics, "SIDE", side)
        root = draw_tree(tmp_path, drawing)
        found, _ = measure(write_recipe(root, ", window = 30, min_valid = 0.0", val="none"))
        assert found["scenes"] == 4
        check(found["bands"], pixels(*(drawing.but(seed=n) for n in range(4))), drawing.dtype)

    @pytest.mark.parametrize("settings", [('data.val="1/2"',), ('data.val="1/2"', 'data.unlabeled="none"')])
    def test_held_out_scenes_count_nowhere(self, tmp_path, settings):
        root = draw_tree(tmp_path, unlabeled=0)
        kept = []
        for number in range(2):
            (root / "images" / f"s{number}.tif").rename(root / "hidden.tif")
            found, _ = measure(write_recipe(root, val="none"))
            kept.append(found["bands"])
            (root / "hidden.tif").rename(root / "images" / f"s{number}.tif")
        found, _ = measure(write_recipe(root), *settings)
        assert found["scenes"] == 1 and found["bands"] in kept

    def test_pixels_of_overlapping_lists_count_once_and_held_out_ones_never(self, tmp_path):
        root = draw_tree(tmp_path, labeled=1, unlabeled=0)
        lists = {"labeled": "s0[0:40,0:30]\n", "unlabeled": "s0\n", "val": "s0[30:60,20:53]\n"}
        for name, text in lists.items():
            (root / f"{name}.txt").write_text(text)
        names = {name: str(root / f"{name}.txt") for name in lists}
        found, _ = measure(write_recipe(root, ", window = 17", **names))
        kept = np.ones((70, 53), bool)
        kept[30:60, 20:53] = False
        check(found["bands"], Drawing().values()[:, kept], "uint16")
        found, _ = measure(write_recipe(root, ", window = 17", **names, allow_overlap=True))
        check(found["bands"], Drawing().values().reshape(5, -1), "uint16")

    def test_files_of_several_types(self, tmp_path):
        short, deep = Drawing(bands=1), Drawing(bands=1, dtype="float32", seed=1)
        files = tuple(str(draw_scene(tmp_path / f"{one.dtype}.tif", one)) for one in (short, deep))
        data = Data(root=tmp_path, channels=2, mean=0.0, std=1.0, classes=["a", "b"], val="none")
        index = Index({"train": [Scene("s", files, str(draw_label(tmp_path / "label.tif", short)))]})
        dataset = scene_dataset(data, index, scaling="scale", window=20)
        parts = statistics.training_parts(dataset, data)
        bands = statistics.empty_bands(dataset, parts)
        assert len(list(statistics.measure(dataset, parts, bands))) == 2 * len(parts)
        check([bands[0].to_json()], short.values().reshape(1, -1), "uint16")
        check([bands[1].to_json()], deep.values().reshape(1, -1), "float32")

    def test_a_second_run_gives_the_same_bytes(self, tmp_path):
        recipe = write_recipe(draw_tree(tmp_path, DRAWINGS["nan"]), val="none")
        measure(recipe)
        first = (tmp_path / "stats.json").read_bytes()
        measure(recipe)
        assert (tmp_path / "stats.json").read_bytes() == first
        assert len(first.splitlines()) == 5 + 5  # a line per band

    def test_the_recipe_takes_them(self, tmp_path):
        recipe = write_recipe(draw_tree(tmp_path), ', stats = "stats.json"', val="none")
        _, text = measure(recipe)
        assert f"--set data.layout.stats={tmp_path / 'stats.json'}" in text and "uint16" in text
        from farcluss.learning.build import build_dataset
        from farcluss.recipes.reading import load_recipe

        data = build_dataset(load_recipe(str(recipe)).data)
        images = np.concatenate([data.read(item).image.reshape(5, -1) for item in data.items("train")], axis=1)
        np.testing.assert_allclose(images.mean(1), 0, atol=1e-4)
        np.testing.assert_allclose(images.std(1), 1, atol=1e-4)


@pytest.mark.parametrize("value", [-9999, 0, 30_000])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_missing_data_that_no_file_declares_is_said(tmp_path, dtype, value):
    recipe = write_recipe(draw_tree(tmp_path, labeled=1, unlabeled=0), val="none")
    values = (Drawing().values() + 9000).astype(dtype)
    values[:, 20:30, 20:30] = value
    write(tmp_path / "images" / "s0.tif", values, Drawing())
    result = cli("rs", "stats", recipe, "-o", tmp_path / "stats.json")
    assert f"data.layout.nodata = {value}" in result.err
    assert all(band["apart"] == value for band in json.loads((tmp_path / "stats.json").read_text())["bands"])
    assert "apart" not in measure(recipe, f"data.layout.nodata={value}")[0]["bands"][0]


class TestPercentiles:
    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32"])
    @pytest.mark.parametrize("count", [1, 2, 199, 1000, 4567])
    def test_they_are_those_of_numpy(self, dtype, count):
        rng = np.random.default_rng(count)
        values = (rng.standard_cauchy(count) * 50).clip(-120, 120).astype(np.float32)
        values = (values - values.min() if dtype.startswith("u") else values).astype(dtype)
        band = Band(dtype)
        for part in np.array_split(values, 3):
            band.add(part)
        for part in np.array_split(values, 3):
            band.refine(part)
        for share in (5, 995):
            assert band.percentile(share) == np.percentile(values, share / 10, method="lower")

    def test_keys_have_the_order_of_values_and_give_them_back(self):
        edges = [-3.4e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0000001, 3.4e38]
        values = np.float32(edges)
        keys = to_keys(values).astype(np.int64)
        assert (np.diff(keys) >= 0).all() and (np.diff(keys) == 0).sum() == 1  # the two zeros
        assert [from_key(int(key), "float32") for key in keys] == values.tolist()
        short = np.arange(-(2**15), 2**15).astype(np.int16)
        assert [from_key(int(key), "int16") for key in to_keys(short)] == short.tolist()


class TestRefusals:
    def test_scenes_of_several_types(self, tmp_path):
        root = draw_tree(tmp_path)
        draw_scene(root / "images" / "s2.tif", Drawing(dtype="float32"))
        refusal = cli("rs", "stats", write_recipe(root, val="none"), "-o", root / "stats.json").refusal
        assert "uint16 in s0, but float32 in s2" in refusal

    def test_nothing_valid(self, tmp_path):
        drawing = Drawing(nodata=0)
        write(tmp_path / "images" / "s0.tif", np.zeros((5, 70, 53), np.uint16), drawing, nodata=0)
        draw_label(tmp_path / "labels" / "s0.tif", drawing)
        refusal = cli("rs", "stats", write_recipe(tmp_path, val="none"), "-o", tmp_path / "stats.json").refusal
        assert "No pixel" in refusal and not (tmp_path / "stats.json").exists()

    def test_values_that_are_none(self, tmp_path):
        values = Drawing().values().astype(np.float64)
        values[3, :5] = -1.7e308
        write(tmp_path / "images" / "s0.tif", values, Drawing())
        draw_label(tmp_path / "labels" / "s0.tif")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            refusal = cli("rs", "stats", write_recipe(tmp_path, val="none"), "-o", tmp_path / "stats.json").refusal
        assert "Band 4" in refusal and "data.layout.nodata" in refusal

    def test_a_layout_without_scenes(self, tmp_path):
        (tmp_path / "images").mkdir()
        recipe = write_recipe(tmp_path)
        recipe.write_text(recipe.read_text().replace('"rasters"', '"folder"'))
        assert "is not a layout of scenes" in cli("rs", "stats", recipe).refusal


@pytest.mark.parametrize("seed", range(20))
def test_disjoint_boxes_cover_what_they_should(seed):
    rng = np.random.default_rng(seed)

    def draw(count):
        ends = np.sort(rng.integers(0, 21, (count, 2, 2)), axis=2)
        ends[..., 1] += ends[..., 0] == ends[..., 1]
        return [(slice(*map(int, rows)), slice(*map(int, columns))) for rows, columns in ends]

    boxes, taken = draw(6), draw(3)
    wanted, seen = np.zeros((22, 22), int), np.zeros((22, 22), int)
    for box in boxes:
        wanted[box] = 1
    for box in taken:
        wanted[box] = 0
    found = disjoint(boxes, taken)
    for box in found:
        seen[box] += 1
    np.testing.assert_array_equal(seen, wanted)
    assert sum(map(area, found)) == wanted.sum()
