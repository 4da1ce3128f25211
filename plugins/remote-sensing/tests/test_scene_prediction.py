"""What is interrupted goes on and changes no bit; what cannot be done is said."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from multiprocessing import active_children

import numpy as np
import pytest
import rasterio
import torch
from commandline import cli
from drawn_scenes import CLASSES, Drawing, draw_scene, write
from registered import registered
from scene_weights import card, in_one_piece, predict, read, tiny
from tiny_network import TinyNetwork

from farcluss.errors import DataError, PluginError, WeightsError
from farcluss.inference.card import Card
from farcluss.inference.ensemble import Mean
from farcluss.inference.weights import Model, build_network, save_weights
from farcluss.recipes.model import Data
from farcluss_remote_sensing import maps, whole_scenes
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene
from farcluss_remote_sensing.writer import GeoTiffWriter

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


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
        assert said[0].note == "s: resumed a prediction that was interrupted after 64 of 170 rows."
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
        assert "interrupted after 138 of 170" in predict(scene, tmp_path / "s", probs=True)[0].note
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
        assert not any(step.note for step in predict(scene, tmp_path / "s", model, **options))
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


@pytest.fixture
def warm(monkeypatch):
    """Processes begin with what one process has imported, and share nothing else with this one, as spawned ones."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farcluss_remote_sensing.whole_scenes", "farcluss.networks.deeplabv3plus"])
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda method: context)


class TestProcesses:
    @pytest.mark.slow
    def test_one_dies_the_others_go_on_another_time_and_no_bit_changes(self, tmp_path, short):
        options = {"encoder": "test_resnet", "aspp_channels": 8, "head_channels": 8}
        facts = card(network="deeplabv3plus").model_copy(update={"options": options})
        model = Model(build_network("deeplabv3plus", options, 5, 4, 0, False).eval(), facts)
        scene = draw_scene(tmp_path / "scene.tif", Drawing((170, 60)))
        predict(scene, tmp_path / "usual", model, probs=True)
        run = GeoTiffWriter(facts, probs=True, processes=2).predict(model, (scene,), tmp_path / "s")
        while not list((tmp_path / ".s.parts").glob("[0-9]*.json")):  # a strip is finished
            next(run)
        os.kill(active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"died with exit code -9.*\n.*finished work is kept"):
            list(run)
        assert not active_children()
        for name in list((tmp_path / ".s.parts").glob("[0-9]*.json"))[2:]:
            name.unlink()
        assert "resumed" in predict(scene, tmp_path / "s", model, probs=True, processes=2)[0].note
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

    @pytest.mark.slow
    def test_a_disk_that_is_full_for_a_process(self, tmp_path, short, warm):
        options = {"encoder": "test_resnet", "aspp_channels": 8, "head_channels": 8}
        facts = card(network="deeplabv3plus").model_copy(update={"options": options})
        model = Model(build_network("deeplabv3plus", options, 5, 4, 0, False).eval(), facts)
        (tmp_path / ".s.parts" / "00000.classes").mkdir(parents=True)  # where no file can be made
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole_scenes.Strips, "begin", lambda strips, key: list(range(strips.count)))
            with pytest.raises(DataError, match="cannot be written: Is a directory"):
                predict(draw_scene(tmp_path / "scene.tif"), tmp_path / "s", model, processes=2)
        assert not active_children()

    def test_errors_of_a_process_are_said(self, tmp_path, short, warm):
        """The network is known to this process alone."""
        with registered("network", "tiny", TinyNetwork), pytest.raises(PluginError, match="no network plugin 'tiny'"):
            predict(draw_scene(tmp_path / "scene.tif"), tmp_path / "s", processes=2)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_together_give_the_mean_of_their_maps(tmp_path, short, warm, processes):
    options = {"encoder": "test_resnet", "aspp_channels": 8, "head_channels": 8}
    facts = card(network="deeplabv3plus").model_copy(update={"options": options})
    models = [Model(build_network("deeplabv3plus", options, 5, 4, 0, False).eval(), facts) for _ in range(2)]
    models[1].network.classifier.weight.data *= 20
    scene = draw_scene(tmp_path / "scene.tif", Drawing((70, 60)))
    for name, model in {"a": models[0], "b": models[1], "s": Model(Mean(models).eval(), facts)}.items():
        predict(scene, tmp_path / name, model, probs=True, processes=processes if name == "s" else 1)
    a, b, found = (read(tmp_path / f"{name}_probs.tif") for name in "abs")
    np.testing.assert_allclose(found, (a + b) / 2, atol=1e-6)
    assert np.abs(a - b).max() > 0.01
    assert GeoTiffWriter(facts).preparation == GeoTiffWriter(facts).preparation != {}


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
        with pytest.raises(DataError, match=r"s\.tif: band 1 is uint16, but training and statistics are of float32"):
            predict(draw_scene(tmp_path / "s.tif"), tmp_path / "out", model)

    @pytest.mark.parametrize(("names", "said"), [("EDCBA", "Reorder them"), ("VWXYZ", "")])
    def test_bands_of_other_names(self, tmp_path, names, said):
        """Those of training in another order are refused, others are said."""
        model = Model(tiny(), card(stats=[{"name": name} for name in "ABCDE"]))
        scene = draw_scene(tmp_path / "s.tif")
        with rasterio.open(scene, "r+") as file:
            file.descriptions = names
        if said:
            with pytest.raises(DataError, match=rf"s\.tif has the bands E, D, C, B, A.*\n{said}"):
                predict(scene, tmp_path / "out", model)
        else:
            note = predict(scene, tmp_path / "out", model)[-1].note
            assert "named V, W, X, Y, Z, in training A, B, C, D, E" in note

    @pytest.mark.parametrize("options", [{}, {"gpkg": True}, {"gpkg": True, "qml": True}])
    def test_geojson_without_a_place(self, tmp_path, options):
        """The other files are written, and a note says why it is not."""
        scene = draw_scene(tmp_path / "s.tif", Drawing(crs=None))
        note = predict(scene, tmp_path / "out" / "s", geojson=True, **options)[-1].note
        assert "s.tif has no coordinate reference system, so there is no GeoJSON" in note
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert files == {"s.tif", "s.tif.aux.xml", *(f"s.{name}" for name in options)}

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
        assert "resumed" in predict(scene, tmp_path / "out" / "s", cog=cog, probs=True)[0].note


class TestRemarks:
    def stats(self, drawing, **changes):
        bands = drawing.values()[:, ~drawing.invalid()].astype(float)
        return [{"mean": band.mean(), "std": band.std(), "dtype": drawing.dtype} | changes for band in bands]

    def said(self, tmp_path, drawing, stats, **options):
        scene = draw_scene(tmp_path / "s.tif", drawing)
        model = Model(tiny(), card(stats=stats, scaling="zscore"))
        return [step.note for step in predict(scene, tmp_path / "out", model, **options) if step.note]

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

    def test_weights_without_statistics_know_units_and_types(self, tmp_path):
        drawing = Drawing(dtype="float32")
        scene = draw_scene(tmp_path / "a.tif", drawing)
        data = Data(root=tmp_path, channels=5, mean=0.0, std=1.0, classes=dict(zip(CLASSES, range(4), strict=True)))
        trained = scene_dataset(data, Index({"train": [Scene("a", (str(scene),))]}), scaling="scale", factor=1.0)
        facts = trained.carried.layout.options
        model = Model(tiny(), card(**{key: facts[key] for key in ("scaling", "factor", "stats")}))
        assert predict(scene, tmp_path / "same", model)[-1].note == ""
        other = write(tmp_path / "b.tif", drawing.values() * 10_000, drawing)
        assert "check units and scaling" in predict(other, tmp_path / "far", model)[-1].note
        with pytest.raises(DataError, match=r"c.tif: band 1 is uint16, but training .* float32"):
            predict(draw_scene(tmp_path / "c.tif"), tmp_path / "other", model)

    def test_a_scene_without_a_valid_pixel(self, tmp_path):
        scene = write(tmp_path / "s.tif", np.zeros((5, 40, 40), np.uint16), Drawing(), nodata=0)
        assert "no pixel is valid" in predict(scene, tmp_path / "out")[-1].note
        assert (read(tmp_path / "out.tif") == 255).all()


class TestCommand:
    def test_from_a_folder_to_maps(self, tmp_path):
        with registered("network", "tiny", TinyNetwork):
            save_weights(tmp_path / "w.safetensors", tiny(), card(stats=[{"mean": 0.2, "std": 0.1}] * 5))
            for name in ("a", "in side/b"):
                draw_scene(tmp_path / "scenes" / f"{name}.tif")
            words = (tmp_path / "w.safetensors", tmp_path / "scenes", "-o", tmp_path / "out", "--device", "cpu")
            result = cli("predict", *words, "--probs", "--set", "cog=false", "--set", "blend=gaussian")
        assert result.code == 0 and "2 of 2 images predicted" in result.out
        notes = result.err.splitlines()
        assert [line.partition(" has mean")[0] for line in notes] == ["Note: a: band 1", "Note: b: band 1"]
        truth = in_one_piece(Drawing())
        for name in ("a", "in side/b"):
            np.testing.assert_array_equal(read(tmp_path / "out" / f"{name}.tif")[0], truth.argmax(0))
            np.testing.assert_allclose(read(tmp_path / "out" / f"{name}_probs.tif"), truth, atol=1e-6)
