"""Maps lie where their scenes lie and say what the network says; what is interrupted goes on and changes no bit."""

import os
import resource
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from commandline import cli
from drawn_scenes import CLASSES, GEOGRAPHIC, ROTATED, Drawing, draw_scene, write
from rasterio.shutil import copy as copy_file
from rio_cogeo.cogeo import cog_validate
from tiny_network import TinyNetwork
from torch import nn

from farcluss import plugins
from farcluss.errors import DataError, WeightsError
from farcluss.networks.base import Prediction
from farcluss.weights import Card, Inference, Model, build_network, save_weights
from farcluss_remote_sensing import maps, whole_scenes
from farcluss_remote_sensing import writer as writer_module
from farcluss_remote_sensing.files import close_all
from farcluss_remote_sensing.writer import GeoTiffWriter

PALETTE = ((0, 0, 200), (220, 220, 60), (0, 120, 0), (200, 30, 30))
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


def card(channels=5, network="tiny", window=(32, 32), stats=(), **layout) -> Card:
    options = {"name": "rasters", "scaling": "scale", "factor": 10_000.0, "stats": list(stats)}
    options |= {"bands": [], "warp": False, "window": 1024, **layout}
    recipe = {"data": {"layout": options}, "eval": {"writer": "geotiff"}}
    return Card(network=network, options={}, channels=channels, dim=0, classes=list(CLASSES), palette=PALETTE,
                mean=[0.5] * channels, std=[0.2] * channels, recipe=recipe, source="run", step=7,
                inference=Inference(window=window, stride=0.5))  # fmt: skip


def tiny() -> TinyNetwork:
    """A network that sees a pixel and its neighbors, and finds all classes in a drawing."""
    torch.manual_seed(11)
    network = TinyNetwork(5, 4, 0, False)
    for parameter in network.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 0
    return network.eval()


def predict(files, target, model=None, steps=None, **options) -> list:
    """What a writer says on the way; all of it, or `steps` of its steps."""
    model = model or Model(tiny(), card())
    run = GeoTiffWriter(model.card, **options).predict(model, files if isinstance(files, tuple) else (files,), target)
    said = list(run) if steps is None else [next(run) for _ in range(steps)]
    run.close()
    close_all()  # a test may change the files
    return said


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def in_one_piece(drawing, network=None):
    """Probabilities `(C, H, W)` of a whole scene by the network alone, invalid pixels at the mean, in float64."""
    scaled = (drawing.values() / 10_000.0).astype(np.float32)
    scaled[:, drawing.invalid()] = 0.5
    with torch.no_grad():
        logits = (network or tiny())((torch.from_numpy(scaled)[None] - 0.5) / 0.2).logits
    return logits.double().softmax(1)[0].numpy()


@pytest.fixture
def short(monkeypatch):
    """Strips of 32 rows."""
    monkeypatch.setattr(writer_module, "ROWS", 32)


@pytest.fixture
def counted(monkeypatch):
    """Windows that networks were asked for."""
    asked, usual = [], whole_scenes.predict_tiles

    def counting(model, task, windows):
        asked.extend(windows)
        return usual(model, task, windows)

    monkeypatch.setattr(whole_scenes, "predict_tiles", counting)
    return asked


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
        def write_polygons(classes_path, confidence_path, classes, outputs):
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
        def write_polygons(classes_path, confidence_path, classes, outputs):
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
        assert "after 70 of 70 rows" in predict(scene, tmp_path / "out" / "s", gpkg=True)[0].remark
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
        plugins.register("network", "pairs", Pairs)
        try:
            save_weights(tmp_path / "pairs.safetensors", Pairs(10, 4, 0, False), facts)
            for given, place in (("test", "A/s.tif"), ("test/A", "s.tif")):
                words = (tmp_path / "pairs.safetensors", tmp_path / given, "-o", tmp_path / "out", "--device", "cpu")
                assert cli("predict", *words).code == 0
                found = read(tmp_path / "out" / place)[0]
                np.testing.assert_array_equal(found == 1, truth[1] > truth[0])
            words = (tmp_path / "pairs.safetensors", tmp_path / "test" / "B", "-o", tmp_path / "out")
            assert "nothing there is what these weights predict" in cli("predict", *words).refusal
        finally:
            plugins.unregister("network", "pairs")

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


class TestResuming:
    DRAWING = Drawing((170, 60), nodata=0, collar=5)

    @pytest.fixture
    def scene(self, tmp_path):
        return draw_scene(tmp_path / "scene.tif", self.DRAWING)

    @pytest.fixture
    def usual(self, tmp_path, scene, short):
        predict(scene, tmp_path / "usual", probs=True)
        return read(tmp_path / "usual.tif"), read(tmp_path / "usual_probs.tif")

    def interrupt(self, scene, target, **options):
        """Stop in the middle of the third strip."""
        said = predict(scene, target, steps=5, probs=True, **options)
        assert 0.3 < said[-1].share < 0.6 and not target.with_name("s.tif").exists()

    def test_it_goes_on_and_changes_no_bit(self, tmp_path, scene, usual, counted):
        self.interrupt(scene, tmp_path / "s")
        counted.clear()
        said = predict(scene, tmp_path / "s", probs=True)
        assert min(window[0].stop for window in counted) > 64  # two strips of 32 rows were there
        assert said[0].remark == "s: went on with a prediction that was interrupted after 64 of 170 rows."
        np.testing.assert_array_equal(read(tmp_path / "s.tif"), usual[0])
        np.testing.assert_array_equal(read(tmp_path / "s_probs.tif"), usual[1])
        assert not list(tmp_path.glob(".*"))

    def test_a_strip_in_the_middle_is_made_again(self, tmp_path, scene, usual, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(maps, "write_map", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                predict(scene, tmp_path / "s", probs=True)
        (tmp_path / ".s.parts" / "00002.json").unlink()
        (tmp_path / ".s.parts" / "00002.probs").write_bytes(b"half of")
        assert "interrupted after 138 of 170" in predict(scene, tmp_path / "s", probs=True)[0].remark
        np.testing.assert_array_equal(read(tmp_path / "s_probs.tif"), usual[1])

    @pytest.mark.parametrize("what", ["scene", "weights", "card", "blend", "maps"])
    def test_what_other_circumstances_left_is_not_used(self, tmp_path, scene, usual, counted, what):
        self.interrupt(scene, tmp_path / "s", **({"blend": "gaussian"} if what == "blend" else {}))
        counted.clear()
        model, options = Model(tiny(), card()), {"probs": True}
        if what == "scene":
            os.utime(scene, ns=(1, 1))
        elif what == "weights":
            model.network.classifier.weight.data[0, 0] += 1e-3
        elif what == "card":
            model = Model(tiny(), card().model_copy(update={"step": 8}))
        elif what == "maps":
            options["entropy"] = True
        assert not any(step.remark for step in predict(scene, tmp_path / "s", model, **options))
        assert counted[0][0].start == 0
        if what != "weights":
            np.testing.assert_array_equal(read(tmp_path / "s_probs.tif"), usual[1])

    def test_not_through_a_link(self, tmp_path, scene):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "precious").touch()
        (tmp_path / ".s.parts").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DataError, match="is a link"):
            predict(scene, tmp_path / "s")
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]


class TestProcesses:
    @pytest.mark.slow
    def test_one_dies_the_others_go_on_another_time_and_no_bit_changes(self, tmp_path, short):
        options = {"encoder": "test_resnet", "aspp_channels": 8, "head_channels": 8}
        facts = card(network="deeplabv3plus").model_copy(update={"options": options})
        model = Model(build_network("deeplabv3plus", options, 5, 4, 0, False).eval(), facts)
        scene = draw_scene(tmp_path / "scene.tif", Drawing((170, 60)))
        predict(scene, tmp_path / "usual", model, probs=True)
        run = GeoTiffWriter(facts, probs=True, processes=2).predict(model, (scene,), tmp_path / "s")
        next(run)
        os.kill(active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"died with exit code -9.*\n.*not lost"):
            list(run)
        assert not active_children()
        for name in list((tmp_path / ".s.parts").glob("*.json"))[2:]:
            name.unlink()
        assert "went on" in predict(scene, tmp_path / "s", model, probs=True, processes=2)[0].remark
        for end in ("", "_probs"):
            np.testing.assert_array_equal(read(tmp_path / f"s{end}.tif"), read(tmp_path / f"usual{end}.tif"))

    @pytest.mark.slow
    def test_none_outlives_the_first_one(self):
        """However that ends: what a killed prediction has started must not write into the next one's strips."""
        lines = (
            "import os, multiprocessing, farcluss_remote_sensing.whole_scenes as module",
            "context = multiprocessing.get_context('spawn')",
            "child = context.Process(target=module.end_with_parent)",
            "child.start()",
            "print('started', flush=True)",
            "os.kill(os.getpid(), 9)",
        )
        # The child has the same pipe: it is closed when both have ended.
        ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL and ended.stdout == "started\n"

    def test_a_disk_that_is_full_for_a_process(self, tmp_path, short):
        options = {"encoder": "test_resnet", "aspp_channels": 8, "head_channels": 8}
        facts = card(network="deeplabv3plus").model_copy(update={"options": options})
        model = Model(build_network("deeplabv3plus", options, 5, 4, 0, False).eval(), facts)
        (tmp_path / ".s.parts" / "00000.classes").mkdir(parents=True)  # where no file can be made
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole_scenes.Strips, "begin", lambda strips, key: list(range(strips.count)))
            with pytest.raises(DataError, match="cannot be written: Is a directory"):
                predict(draw_scene(tmp_path / "scene.tif"), tmp_path / "s", model, processes=2)
        assert not active_children()

    def test_errors_of_a_process_are_said(self, tmp_path, short):
        """The network is known to this process alone."""
        plugins.register("network", "tiny", TinyNetwork)
        try:
            with pytest.raises(plugins.PluginError, match="no network plugin 'tiny'"):
                predict(draw_scene(tmp_path / "scene.tif"), tmp_path / "s", processes=2)
        finally:
            plugins.unregister("network", "tiny")


class TestRefusals:
    def test_weights_that_know_no_scenes(self):
        facts = card()
        del facts.recipe["data"]["layout"]["stats"]
        for wrong in (facts, Card.model_validate({**facts.model_dump(), "recipe": {}})):
            with pytest.raises(WeightsError, match=r"layout of scenes.*\n.*--writer"):
                GeoTiffWriter(wrong)

    def test_another_number_of_bands(self, tmp_path):
        with pytest.raises(DataError, match=r"s\.tif: 3 bands"):
            predict(draw_scene(tmp_path / "s.tif", Drawing(bands=3)), tmp_path / "out")

    def test_another_type(self, tmp_path):
        model = Model(tiny(), card(stats=[{"dtype": "float32"}] * 5))
        with pytest.raises(DataError, match=r"s\.tif: band 1 is uint16, the statistics are of float32"):
            predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out", model)

    def test_geojson_without_a_place(self, tmp_path):
        """Said before hours of prediction."""
        scene = draw_scene(tmp_path / "s.tif", Drawing(crs=None))
        with pytest.raises(DataError, match=r"s\.tif has no coordinate reference system.*\n.*gpkg"):
            predict(scene, tmp_path / "out" / "s", geojson=True)
        assert not (tmp_path / "out").exists()

    def test_a_file_that_ends_early(self, tmp_path):
        scene = draw_scene(tmp_path / "s.tif", Drawing((700, 200)))
        scene.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
        with pytest.raises(DataError, match=r"s\.tif cannot be read"):
            predict(scene, tmp_path / "out")
        assert not (tmp_path / "out.tif").exists()

    def test_an_output_that_cannot_be_written(self, tmp_path):
        (tmp_path / "out").touch()
        with pytest.raises(DataError, match=r"out cannot be written: .*another --output"):
            predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out" / "s")

    @pytest.mark.parametrize("cog", [True, False], ids=["cog", "plain"])
    def test_a_full_disk(self, tmp_path, short, cog):
        """As GDAL meets it: no file may be larger than a part of the map."""
        scene = draw_scene(tmp_path / "s.tif", Drawing((300, 200)))
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit in (250_000, 500_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
            try:
                with pytest.raises(DataError, match=r"cannot be written: .*the disk may be full"):
                    predict(scene, tmp_path / "out" / "s", cog=cog, probs=True)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, usual)
            assert [path.name for path in (tmp_path / "out").iterdir()] == [".s.parts"]
        assert "went on" in predict(scene, tmp_path / "out" / "s", cog=cog, probs=True)[0].remark


class TestRemarks:
    def stats(self, drawing, **changes):
        bands = drawing.values()[:, ~drawing.invalid()].astype(float)
        return [{"mean": band.mean(), "std": band.std(), "dtype": drawing.dtype} | changes for band in bands]

    def said(self, tmp_path, drawing, stats, **options):
        scene = draw_scene(tmp_path / "s.tif", drawing)
        model = Model(tiny(), card(stats=stats, scaling="zscore"))
        return [step.remark for step in predict(scene, tmp_path / "out", model, **options) if step.remark]

    def test_none_of_scenes_like_those_of_training(self, tmp_path):
        drawing = Drawing(nodata=60_000, collar=20)  # invalid pixels must not count
        assert not self.said(tmp_path, drawing, self.stats(drawing, std=1.0))

    def test_bands_in_other_units(self, tmp_path, short):
        drawing = Drawing(nodata=0, collar=20)
        stats = self.stats(drawing)
        mean = stats[1]["mean"]
        stats[1]["mean"], stats[3]["mean"] = mean / 10_000, 5e4
        (remark,) = self.said(tmp_path, drawing, stats)
        assert f"out: band 2 has mean {mean:.4g}, in training it had {mean / 10_000:.4g}" in remark
        assert "(and 1 more bands)" in remark and "check units and scaling" in remark

    def test_a_scene_without_a_valid_pixel(self, tmp_path):
        scene = write(tmp_path / "s.tif", np.zeros((5, 40, 40), np.uint16), Drawing(), nodata=0)
        assert "no pixel is valid" in predict(scene, tmp_path / "out")[-1].remark
        assert (read(tmp_path / "out.tif") == 255).all()


class TestCommand:
    def test_from_a_folder_to_maps(self, tmp_path):
        plugins.register("network", "tiny", TinyNetwork)
        try:
            save_weights(tmp_path / "w.safetensors", tiny(), card(stats=[{"mean": 0.2, "std": 0.1}] * 5))
            for name in ("a", "in side/b"):
                draw_scene(tmp_path / "scenes" / f"{name}.tif")
            words = (tmp_path / "w.safetensors", tmp_path / "scenes", "-o", tmp_path / "out", "--device", "cpu")
            result = cli("predict", *words, "--probs", "--set", "cog=false", "--set", "blend=gaussian")
        finally:
            plugins.unregister("network", "tiny")
        assert result.code == 0 and "2 of 2 images predicted" in result.out
        notes = result.err.splitlines()
        assert [line.partition(" has mean")[0] for line in notes] == ["Note: a: band 1", "Note: b: band 1"]
        truth = in_one_piece(Drawing())
        for name in ("a", "in side/b"):
            np.testing.assert_array_equal(read(tmp_path / "out" / f"{name}.tif")[0], truth.argmax(0))
            np.testing.assert_allclose(read(tmp_path / "out" / f"{name}_probs.tif"), truth, atol=1e-6)
