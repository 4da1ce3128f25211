"""Maps lie where their scenes lie and say what the network says."""

import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import torch
from commandline import cli
from drawn_scenes import CLASSES, GEOGRAPHIC, ROTATED, Drawing, draw_scene, write
from rasterio.shutil import copy as copy_file
from registered import registered
from rio_cogeo.cogeo import cog_validate
from scene_weights import PALETTE, card, in_one_piece, predict, read, tiny
from torch import nn

from farcluss.errors import DataError
from farcluss.inference.card import Inference
from farcluss.inference.weights import Model, save_weights
from farcluss.networks.base import Prediction
from farcluss_remote_sensing.legend import values_by_tags
from farcluss_remote_sensing.writer import GeoTiffWriter

DRAWINGS = {
    "plain": Drawing(),
    "rotated": Drawing(transform=ROTATED),
    "geographic": Drawing(transform=GEOGRAPHIC, crs="EPSG:4326"),
    "point": Drawing(transform=GEOGRAPHIC, crs="EPSG:4326", seed=3),
    "south up": Drawing(transform=rasterio.Affine(10.0, 0, 500_000 + 1 / 3, 0, 10.0, 5e6 + 1 / 7)),
    "no crs": Drawing(crs=None),
    "no transform": Drawing(transform=rasterio.Affine.identity()),
    "nodata": Drawing(nodata=0, collar=6),
    "nan": Drawing(dtype="float32", collar=6),
    "picture": Drawing(dtype="uint8", crs=None, transform=rasterio.Affine.identity()),
}
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Oracle(nn.Module):
    """Says of each pixel the class whose number the first band has there."""

    def __init__(self, classes):
        super().__init__()
        self.values = nn.Parameter(torch.arange(classes, dtype=torch.float32))

    def forward(self, images):
        return Prediction(-5 * (images[:, :1] - self.values.view(1, -1, 1, 1)).abs(), None)


@pytest.mark.parametrize("cog", [True, False], ids=["cog", "plain"])
@pytest.mark.parametrize("name", DRAWINGS)
def test_class_in_class_out_where_the_scene_lies(tmp_path, name, cog):
    """Any pixel that is moved or lost shows."""
    drawing = DRAWINGS[name]
    bands, truth, valid = drawing.values()[:1], drawing.classes(), ~drawing.invalid()
    bands[0][valid] = truth[valid] + 1
    scene = write(tmp_path / "scene.tif", bands, drawing, nodata=drawing.nodata)
    if name == "point":
        with rasterio.open(scene, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
    facts = card(1, factor=1.0).model_copy(update={"mean": [1.0], "std": [1.0]})
    predict(scene, tmp_path / "out" / "scene", Model(Oracle(4), facts), cog=cog, probs=True)
    for end in ("", "_probs"):
        with rasterio.open(scene) as given, rasterio.open(tmp_path / "out" / f"scene{end}.tif") as found:
            assert tuple(found.transform) == tuple(given.transform)
            assert found.shape == given.shape
            assert (found.crs and found.crs.to_wkt()) == (given.crs and given.crs.to_wkt())
    np.testing.assert_array_equal(read(tmp_path / "out" / "scene.tif")[0], np.where(valid, truth, 255))


@pytest.mark.parametrize("cog", [True, False], ids=["cog", "plain"])
def test_a_reference_system_that_a_file_cannot_say_is_kept_beside_it(tmp_path, cog):
    """A rotated pole, which GeoTIFF has no keys for."""
    crs = rasterio.crs.CRS.from_string("+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180")
    scene = draw_scene(tmp_path / "s.tif", Drawing(crs=crs, transform=GEOGRAPHIC))
    predict(scene, tmp_path / "out" / "s", cog=cog, probs=True, gpkg=True)
    for end in ("", "_probs"):
        with rasterio.open(scene) as given, rasterio.open(tmp_path / "out" / f"s{end}.tif") as found:
            assert given.crs and found.crs == given.crs and found.transform == given.transform
    names = (tmp_path / "out" / "s.tif.aux.xml").read_text()
    assert all(f"<Category>{name}</Category>" in names for name in CLASSES)


class TestMaps:
    @pytest.mark.parametrize("blend", ["hann", "gaussian"])
    @pytest.mark.parametrize("drawing", [Drawing(), Drawing((91, 130), nodata=0, collar=9)], ids=["valid", "collar"])
    def test_they_are_those_of_the_scene_in_one_piece(self, tmp_path, short, blend, drawing):
        predict(draw_scene(tmp_path / "s.tif", drawing), tmp_path / "s", probs=True, entropy=True, blend=blend)
        truth, valid = in_one_piece(drawing), ~drawing.invalid()
        assert (np.bincount(truth.argmax(0)[valid], minlength=4) > 20).all()
        np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], np.where(valid, truth.argmax(0), 255))
        np.testing.assert_allclose(read(tmp_path / "s_probs.tif"), np.where(valid, truth, np.nan), atol=1e-6)
        entropy = -(truth * np.log(truth)).sum(0) / np.log(4)
        np.testing.assert_allclose(read(tmp_path / "s_entropy.tif")[0], np.where(valid, entropy, np.nan), atol=1e-5)

    def test_a_tile_without_a_valid_pixel_is_not_predicted(self, tmp_path, monkeypatch):
        drawing = Drawing((64, 160), nodata=0, collar=80)
        seen, usual = [], Model.batch_probs
        monkeypatch.setattr(
            Model, "batch_probs", lambda model, images: seen.append(len(images)) or usual(model, images)
        )
        predict(draw_scene(tmp_path / "s.tif", drawing), tmp_path / "s")
        assert sum(seen) == 3 * 5  # of nine columns of tiles, four lie in the collar
        assert (read(tmp_path / "s.tif")[0][:, :80] == 255).all()

    def test_names_and_colors(self, tmp_path):
        scene = draw_scene(tmp_path / "s.tif")
        predict(scene, tmp_path / "out", probs=True)
        with rasterio.open(tmp_path / "out.tif") as file:
            assert {file.tags()[f"CLASS_{index}"]: file.colormap(1)[index] for index in range(4)} == {
                name: (*color, 255) for name, color in zip(CLASSES, PALETTE, strict=True)
            }
            assert file.colormap(1)[255] == (0, 0, 0, 0) and file.nodata == 255
            assert (file.tags()["WEIGHTS"], file.tags()["STEP"]) == ("run", "7")
            assert file.block_shapes == [(512, 512)] and file.compression.value == "DEFLATE"
        with rasterio.open(tmp_path / "out_probs.tif") as file:
            assert file.descriptions == CLASSES and np.isnan(file.nodata) and set(file.dtypes) == {"float32"}
        copy_file(tmp_path / "out.tif", tmp_path / "names.vrt", driver="VRT")  # what GDAL makes of it
        text = (tmp_path / "names.vrt").read_text()
        assert [text.index(f"<Category>{name}</Category>") for name in CLASSES] == sorted(
            text.index(f"<Category>{name}</Category>") for name in CLASSES
        )

    @pytest.mark.parametrize(
        ("given", "values", "dtype", "nodata"),
        [
            ((128, 255, 3, 0), (128, 255, 3, 0), "uint8", 254),
            ((7, 300, 1, 2), (7, 300, 1, 2), "uint16", 65535),
            (("#000000", "#000001", "#000002", "#000003"), (0, 1, 2, 3), "uint8", 255),
            ((-1, 0, 1, 2), (0, 1, 2, 3), "uint8", 255),
        ],
    )
    def test_values_are_those_of_the_labels(self, tmp_path, given, values, dtype, nodata):
        drawing = Drawing(nodata=0, collar=6)
        model = Model(tiny(), card().model_copy(update={"mask_values": list(given)}))
        predict(draw_scene(tmp_path / "s.tif", drawing), tmp_path / "out", model, gpkg=True, qml=True)
        expected = np.where(drawing.invalid(), nodata, np.array(values)[in_one_piece(drawing).argmax(0)])
        with rasterio.open(tmp_path / "out.tif") as file:
            np.testing.assert_array_equal(file.read(1), expected)
            assert file.dtypes == (dtype,) and file.nodata == nodata
            colors = file.colormap(1)
            assert [colors[value][:3] for value in values] == list(PALETTE) and colors[nodata] == (0, 0, 0, 0)
            assert values_by_tags(file.tags(), CLASSES) == list(values)
        rows = [entry.attrib for entry in ElementTree.parse(tmp_path / "out.qml").iter("paletteEntry")]
        assert [(int(row["value"]), row["label"]) for row in rows] == list(zip(values, CLASSES, strict=True))
        assert rows[0]["color"] == "#0000c8"
        names = [entry.text for entry in ElementTree.parse(tmp_path / "out.tif.aux.xml").iter("Category")]
        known = dict(zip(values, CLASSES, strict=True))
        assert names == [known.get(value) for value in range(min(max(values), 255) + 1)]
        fields = pyogrio.raw.read(tmp_path / "out.gpkg")
        columns = dict(zip(fields[0]["fields"], fields[3], strict=True))
        ids = dict(zip(columns["class"].tolist(), columns["class_id"].tolist(), strict=True))
        assert ids.items() <= dict(zip(CLASSES, values, strict=True)).items()

    def test_cloud_optimized(self, tmp_path):
        drawing = Drawing((600, 300), bands=5)
        model = Model(tiny(), card(window=(512, 512)))
        predict(draw_scene(tmp_path / "s.tif", drawing), tmp_path / "out", model, probs=True, entropy=True)
        for end in ("", "_probs", "_entropy"):
            valid, errors, remarks = cog_validate(tmp_path / f"out{end}.tif", strict=True)
            assert valid and not errors and not remarks
            with rasterio.open(tmp_path / f"out{end}.tif") as file:
                assert file.overviews(1)
        with rasterio.open(tmp_path / "out.tif", overview_level=0) as file:
            small = file.read(1)
            assert set(np.unique(small)) <= {0, 1, 2, 3} and small.shape == (300, 150)
            assert file.colormap(1)[1][:3] == PALETTE[1]

    def test_plain(self, tmp_path):
        predict(draw_scene(tmp_path / "s.tif", Drawing((600, 560))), tmp_path / "out", cog=False)
        with rasterio.open(tmp_path / "out.tif") as file:
            assert file.overviews(1) == [] and file.block_shapes == [(512, 512)]
            assert file.compression.value == "DEFLATE"

    def test_nothing_else_is_left(self, tmp_path):
        scene = draw_scene(tmp_path / "s.tif")
        writer = GeoTiffWriter(card(), probs=True, entropy=True)
        predict(scene, tmp_path / "out" / "s", probs=True, entropy=True)
        assert sorted((tmp_path / "out").iterdir()) == sorted(writer.outputs(tmp_path / "out" / "s"))

    def test_polygons_are_made_of_classes_and_confidence(self, tmp_path, monkeypatch, short):
        def write_polygons(classes_path, confidence_path, classes, outputs, **how):
            assert classes_path.name == "out.tif" and list(classes) == list(CLASSES)
            for name, path in outputs.items():
                np.save(path.with_suffix(".npy"), read(confidence_path))
                path.with_suffix(".npy").rename(path)
                assert path.name == f"out.{name}"

        module = SimpleNamespace(write_polygons=write_polygons)
        monkeypatch.setitem(sys.modules, "farcluss_remote_sensing.polygons", module)
        drawing = Drawing(nodata=0, collar=9)
        predict(draw_scene(tmp_path / "s.tif", drawing), tmp_path / "out", gpkg=True, geojson=True)
        wanted = np.where(drawing.invalid(), np.nan, in_one_piece(drawing).max(0))
        for name in ("gpkg", "geojson"):
            np.testing.assert_allclose(np.load(tmp_path / f"out.{name}")[0], wanted, atol=1e-6)
        assert not (tmp_path / "out_confidence.tif").exists() and not list(tmp_path.glob(".*"))

    def test_polygons_that_fail_leave_nothing_but_what_to_go_on_with(self, tmp_path, monkeypatch, short):
        def write_polygons(classes_path, confidence_path, classes, outputs, **how):
            fresh = not outputs["gpkg"].exists()
            outputs["gpkg"].touch()
            if not fresh or not failed:
                failed.append(fresh)
                raise DataError("No polygons.")

        failed = []
        module = SimpleNamespace(write_polygons=write_polygons)
        monkeypatch.setitem(sys.modules, "farcluss_remote_sensing.polygons", module)
        scene = draw_scene(tmp_path / "s.tif")
        with pytest.raises(DataError, match=r"No polygons\."):
            predict(scene, tmp_path / "out" / "s", gpkg=True)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".s.parts"]
        assert "after 70 of 70 rows" in predict(scene, tmp_path / "out" / "s", gpkg=True)[0].note
        assert failed == [True] and (tmp_path / "out" / "s.gpkg").exists()


class TestWindows:
    def test_whole_images_are_windows_of_the_layout(self, tmp_path, counted):
        model = Model(tiny(), card(window=None))
        predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out", model)
        assert counted == [(slice(0, 70), slice(0, 53))]
        counted.clear()
        facts = card()
        facts.recipe["data"]["layout"]["window"] = 40
        facts = facts.model_copy(update={"inference": Inference(stride=0.5)})
        predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out", Model(tiny(), facts))
        assert {tuple(part.stop - part.start for part in window) for window in counted} == {(40, 40)}

    def test_mirror_images_and_scales_count(self, tmp_path):
        """Against the model's own way of predicting a whole image."""
        settings = Inference(flip=True, scales=(1.0, 0.5))
        model = Model(tiny(), card(window=(80, 80)).model_copy(update={"inference": settings}))
        predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out", model, probs=True)
        truth = model.probs((Drawing().values() / 10_000.0).astype(np.float32)).numpy()
        np.testing.assert_allclose(read(tmp_path / "out_probs.tif"), truth, atol=1e-6)


class TestCases:
    def test_each_file_is_a_scene(self):
        files = [Path("a.tif"), Path("b_B02.jp2")]
        assert GeoTiffWriter(card()).cases(files) == [("a", (files[0],)), ("b_B02", (files[1],))]

    def test_labels_beside_images_are_none(self):
        files = [Path("t/a.tif"), Path("t/a_y.tif"), Path("t/b.tif"), Path("t/b_Y.TIF")]
        cases = GeoTiffWriter(card(labels="{dir}/{stem}_y.tif", val_labels=None)).cases(files)
        assert cases == [("a", (files[0],)), ("b", (files[2],))]

    def test_bands_in_files_of_their_own(self):
        names = ("x_B03.jp2", "x_B02.jp2", "y_B02.jp2", "y_B03.jp2", "x_label.tif")
        built = GeoTiffWriter(card(2, band_files=["_B02", "_B03"]))
        assert built.cases([Path(name) for name in names]) == [
            ("x", (Path("x_B02.jp2"), Path("x_B03.jp2"))),
            ("y", (Path("y_B02.jp2"), Path("y_B03.jp2"))),
        ]
        assert built.cases([Path("both.tif")]) == [("both", (Path("both.tif"),))]

    def test_bands_of_files_are_joined_in_the_order_of_training(self, tmp_path):
        for band, values in enumerate(Drawing().values()):
            write(tmp_path / "bands" / f"s_{'edcba'[band]}.tif", values, Drawing())
        model = Model(tiny(), card(band_files=["_e", "_d", "_c", "_b", "_a"]))
        ((name, files),) = GeoTiffWriter(model.card).cases(sorted((tmp_path / "bands").iterdir()))
        predict(files, tmp_path / name, model)
        np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], in_one_piece(Drawing()).argmax(0))

    def test_pairs_of_dates(self, tmp_path):
        """From the folder of both dates, and from that of the first; labels beside them are left alone."""
        facts = card(10, network="pairs")
        facts.recipe["data"]["layout"]["name"] = "change"

        class Pairs(nn.Module):
            """Finds class 1 where the first band has risen between the dates."""

            def __init__(self, in_channels, classes, dim, pretrained):
                super().__init__()
                self.sign = nn.Parameter(torch.tensor([0.0, 1.0, -9.0, -9.0]))

            def forward(self, images):
                return Prediction((images[:, 5:6] - images[:, :1]) * self.sign.view(1, -1, 1, 1), None)

        truth = []
        for seed, folder in enumerate(("A", "B", "label")):
            truth.append(Drawing(seed=seed).values()[0].astype(int))
            draw_scene(tmp_path / "test" / folder / "s.tif", Drawing(seed=seed))
        with registered("network", "pairs", Pairs):
            save_weights(tmp_path / "pairs.safetensors", Pairs(10, 4, 0, False), facts)
            for given, place in (("test", "A/s.tif"), ("test/A", "s.tif")):
                words = (tmp_path / "pairs.safetensors", tmp_path / given, "-o", tmp_path / "out", "--device", "cpu")
                assert cli("predict", *words).code == 0
                found = read(tmp_path / "out" / place)[0]
                np.testing.assert_array_equal(found == 1, truth[1] > truth[0])
            words = (tmp_path / "pairs.safetensors", tmp_path / "test" / "B", "-o", tmp_path / "out")
            assert "no file there is an input of these weights" in cli("predict", *words).refusal

    def test_dates_are_found_as_the_layout_finds_them(self, tmp_path):
        """In folders of other names, with files of other endings."""
        facts = card(10, before="2012/image", after="2016/image")
        facts.recipe["data"]["layout"]["name"] = "change"
        files = [tmp_path / name for name in ("2012/image/a.tif", "2016/image/a.tif", "2012/label/a.tif")]
        files += [tmp_path / name for name in ("2012/image/b.tif", "2016/image/b.png")]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert GeoTiffWriter(facts).cases(files) == [("a", tuple(files[:2])), ("b", tuple(files[3:]))]

    def test_bands_in_a_folder_of_their_own(self):
        built = GeoTiffWriter(card(2, band_files=["B02", "B03"]))
        files = [Path("scenes/x") / name for name in ("B03.jp2", "B02.jp2", "B04.jp2")]
        assert built.cases(files) == [("x", (files[1], files[0]))]

    @pytest.mark.parametrize(
        ("names", "said"),
        [(["s_a.tif"], r"s has no file that ends in _b\."), (["s_a.tif", "s_a.png", "s_b.tif"], "two files for _a")],
    )
    def test_bands_that_are_missing_or_there_twice(self, tmp_path, names, said):
        for name in names:
            write(tmp_path / name, Drawing().values()[0], Drawing(), driver="PNG" if name.endswith("png") else "GTiff")
        model = Model(tiny(), card(band_files=["_a", "_b"]))
        ((name, files),) = GeoTiffWriter(model.card).cases([tmp_path / name for name in names])
        assert name == "s"
        with pytest.raises(DataError, match=said):
            predict(files, tmp_path / "out", model)
