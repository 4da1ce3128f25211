"""Scenes are predicted from whatever names them: tables, STAC items, several files, addresses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from commandline import cli
from drawn_scenes import Drawing, draw_label, draw_scene, write
from registered import registered
from scene_recipes import write_recipe
from scene_weights import card, in_one_piece, read, tiny
from tiny_network import TinyNetwork

from farcluss.errors import DataError
from farcluss.inference.weights import Model, save_weights
from farcluss.jobs.prediction import plan, predict_files
from farcluss_remote_sensing.files import close_all, read_header
from farcluss_remote_sensing.writer import GeoTiffWriter

DRAWING = Drawing((40, 33))
TRUTH = in_one_piece(DRAWING).argmax(0)


@pytest.fixture
def folder(tmp_path):
    """A scene in two files and in one, its label, and what names them."""
    write(tmp_path / "s/x_1.tif", DRAWING.values()[:2], DRAWING)
    write(tmp_path / "s/x_2.tif", DRAWING.values()[2:], DRAWING)
    draw_scene(tmp_path / "s/whole.tif", DRAWING)
    draw_label(tmp_path / "s/label.tif", DRAWING)
    (tmp_path / "scenes.csv").write_text("image,label,split\ns/x_1.tif;s/x_2.tif,s/label.tif,val\n")
    return tmp_path


@pytest.fixture
def server(folder, monkeypatch):
    """The folder by HTTP, from a process of its own: GDAL waits for answers without letting other threads run."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    words = (sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().split("(")[1].split("/)")[0]
        close_all()
        process.terminate()


def item(name, assets, bands=()):
    """A STAC item; `bands` are the names of the assets' only bands."""
    named = {asset: {"bands": [{"name": band}]} for asset, band in zip(assets, bands, strict=False)}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "properties": {}, "links": [],
        "assets": {key: {"href": href} | named.get(key, {}) for key, href in assets.items()},
    }  # fmt: skip


def predicted(folder, *inputs, facts=None, **options):
    """Names of the maps, all of which are as the network says, and errors."""
    model = Model(tiny(), facts or card())
    writer = GeoTiffWriter(model.card, **options)
    jobs, _ = plan(list(map(str, inputs)), folder / "out", writer)
    errors = [outcome.error for outcome in predict_files(model, jobs, writer) if outcome.error]
    maps = sorted((folder / "out").rglob("*.tif"))
    for path in maps:
        np.testing.assert_array_equal(read(path)[0], TRUTH)
    return [path.relative_to(folder / "out").as_posix() for path in maps], list(map(str, errors))


STACS = {
    "chosen": (item("one", {"b": "s/x_2.tif", "a": "s/x_1.tif"}), {"assets": ["a", "b"]}, ["one.tif"]),
    "by band": (item("one", {"b": "s/x_2.tif", "a": "s/x_1.tif"}, "vu"), {"assets": ["u", "v"]}, ["one.tif"]),
    "the only one": (item("one", {"data": "./s/whole.tif", "note": "note.html"}), {}, ["one.tif"]),
    "a search": (
        {"type": "FeatureCollection", "features": [item("o", {"d": "s/whole.tif"}), item("p", {"d": "s/whole.tif"})]},
        {}, ["o.tif", "p.tif"],
    ),
}  # fmt: skip


class TestNames:
    @pytest.mark.parametrize("layout", [{}, {"name": "change", "before": "A", "after": "B"}], ids=["stack", "pair"])
    def test_files_together(self, folder, layout):
        together = f"{folder}/s/x_1.tif;{folder}/s/x_2.tif"
        found = predicted(folder, together, together, folder / "scenes.csv", facts=card(**layout))
        assert found == (["s/x_1.tif", "x_1.tif"], [])

    def test_a_table_is_predicted_and_scored(self, folder):
        """As trained: the map of a scene is called like the scene."""
        recipe = write_recipe(folder, val="val")
        recipe.write_text(recipe.read_text().replace('"rasters"', '"scenes", scaling = "scale"'))
        with registered("network", "tiny", TinyNetwork):
            save_weights(folder / "w.safetensors", tiny(), card())
            found = cli("predict", folder / "w.safetensors", folder / "scenes.csv", "-o", folder / "out")
        assert found.code == 0 and "1 of 1 images predicted" in found.out
        np.testing.assert_array_equal(read(folder / "out/s/x_1.tif")[0], TRUTH)
        scores = json.loads(cli("rs", "evaluate", recipe, folder / "out", "--json").out)
        assert [row["scene"] for row in scores["scenes"]] == ["s/x_1"] and not scores["missing"]

    def test_a_table_below_the_root(self, folder):
        (folder / "tables").mkdir()
        (folder / "scenes.csv").rename(folder / "tables" / "any.CSV")
        assert predicted(folder, folder / "tables" / "any.CSV") == (["s/x_1.tif"], [])

    def test_a_row_that_fails_does_not_end_the_others(self, folder):
        (folder / "scenes.csv").write_text("image\ns/gone.tif\ns/whole.tif\n")
        maps, errors = predicted(folder, folder / "scenes.csv")
        assert maps == ["s/whole.tif"] and "s/gone.tif does not exist" in errors[0]

    @pytest.mark.parametrize("case", STACS)
    def test_stac_items(self, folder, case):
        content, options, maps = STACS[case]
        (folder / "items.json").write_text(json.dumps(content))
        assert predicted(folder, folder / "items.json", **options) == (maps, [])

    def test_stac_items_with_the_bands_of_training(self, folder):
        """By their names in the weights, or by the ends of files with a band each."""
        for band, values in zip("ABCDE", DRAWING.values(), strict=True):
            write(folder / f"s/y_{band}.tif", values, DRAWING)
        (folder / "y.json").write_text(json.dumps(item("y", {band: f"s/y_{band}.tif" for band in "EDCBA"})))
        named = card(stats=[{"name": band} for band in "ABCDE"])
        for facts in (named, card(band_files=[f"_{band}" for band in "ABCDE"])):
            assert predicted(folder, folder / "y.json", facts=facts) == (["y.tif"], [])

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (item("one", {"a": "a.tif", "b": "b.tif"}), "one has 2 rasters; its assets are a, b.\nName those"),
            ({"type": "FeatureCollection", "features": [{"type": "Feature"}]}, "holds no STAC items"),
            ([1], "holds no STAC items"),
        ],
    )
    def test_what_says_no_scene(self, folder, content, text):
        (folder / "items.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=text):
            predicted(folder, folder / "items.json")


PIPE = "a pipe, socket or device"


class TestPipes:
    """None is ever read from: that would not end."""

    def test_a_raster(self, folder):
        os.mkfifo(folder / "pipe.tif")
        with pytest.raises(DataError, match=rf"pipe\.tif cannot be read: it is {PIPE}\. Take it out\."):
            read_header(str(folder / "pipe.tif"))
        (folder / "scenes.csv").write_text("image\ns/whole.tif\npipe.tif\n")
        maps, errors = predicted(folder, folder / "scenes.csv")
        assert maps == ["s/whole.tif"] and f"pipe.tif is {PIPE}, not a file." in errors[0]
        recipe = write_recipe(folder, val="1/2")
        recipe.write_text(recipe.read_text().replace('"rasters"', '"scenes"'))
        assert "line 3: " in (said := cli("rs", "stats", recipe).refusal) and f"pipe.tif is {PIPE}." in said

    @pytest.mark.parametrize("name", ["pipe.csv", "pipe.json", "pipe.geojson"])
    def test_what_names_scenes(self, folder, name):
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=f"{name} is not an image"):
            predicted(folder, folder / name)
        recipe = write_recipe(folder, val="1/2")
        recipe.write_text(recipe.read_text().replace('"rasters"', f'"scenes", file = "{name}"'))
        assert f"{name} cannot be read: it is {PIPE}, not a file." in cli("rs", "split", recipe).refusal


def test_labels_of_no_bytes_are_called_empty(folder):
    (folder / "empty.geojson").touch()
    (folder / "scenes.csv").write_text("image,label\ns/whole.tif,empty.geojson\n")
    recipe = write_recipe(folder, val="1/2")
    recipe.write_text(recipe.read_text().replace('"rasters"', '"scenes"'))
    assert "empty.geojson cannot be read: it is empty (0 bytes)" in cli("rs", "split", recipe).refusal


class TestAddresses:
    def test_they_are_predicted(self, folder, server):
        (folder / "items.json").write_text(json.dumps(item("one", {"d": f"{server}/s/whole.tif"})))
        (folder / "far.csv").write_text(f"image\n{server}/s/x_1.tif;/vsicurl/{server}/s/x_2.tif\n")
        inputs = (f"{server}/s/whole.tif", folder / "items.json", folder / "far.csv")
        host = server.removeprefix("http://")
        assert predicted(folder, *inputs) == ([f"{host}/s/x_1.tif", "one.tif", "whole.tif"], [])

    def test_they_are_in_tables_and_lists(self, folder, server):
        (folder / "scenes.csv").write_text(f"image,label\n{server}/s/whole.tif,{server}/s/label.tif\n")
        (folder / "val.txt").write_text(f"{server}/s/whole.tif\n")
        recipe = write_recipe(folder, val=str(folder / "val.txt"), labeled=str(folder / "val.txt"), allow_overlap=True)
        recipe.write_text(recipe.read_text().replace('"rasters"', '"scenes", scaling = "scale"'))
        found = cli("rs", "stats", recipe, "-o", folder / "stats.json")
        assert found.code == 0 and "1 scenes" in found.out, found.err

    @pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.tif", "/vsicurl/http://127.0.0.1:9/a.tif"])
    def test_what_is_not_there_is_named_in_full(self, folder, address):
        with pytest.raises(DataError) as error:
            read_header(address)
        first, advice = str(error.value).splitlines()
        assert first.startswith(f"{address} cannot be read: ") and "HTTPS_PROXY" in advice
