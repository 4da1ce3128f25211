"""`farcluss export`: one file that needs nothing else, and an ONNX graph that says the same."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import warm
from commandline import cli
from manifests import seal

import farcluss
from farcluss.errors import PluginError, WeightsError
from farcluss.inference.weights import read_card
from farcluss.jobs.exporting import export_onnx, load_source
from farcluss.runs import checkpoints

LAST = "weights/last.safetensors"


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """Both files, exported once: the tests below only look at them."""
    folder = tmp_path_factory.mktemp("exported")
    result = cli("export", trained_run, "-o", folder / "model.safetensors", "--onnx", folder / "model.onnx")
    assert (result.code, result.err) == (0, ""), result
    assert f"wrote {folder / 'model.safetensors'}: teacher of step 12, 6 classes" in result.out
    assert f"wrote {folder / 'model.onnx'}: differs from PyTorch by at most" in result.out
    return folder


@pytest.fixture
def image():
    return np.random.default_rng(2).integers(0, 256, (3, 32, 32), np.uint8)


class TestWeights:
    @pytest.mark.parametrize("network", ["teacher", "student"])
    def test_of_a_run_are_those_of_its_checkpoint(self, trained_run, tmp_path, network):
        path = tmp_path / "model.safetensors"
        assert cli("export", trained_run, "-o", path, "--network", network).code == 0
        model = farcluss.load(path)
        state = checkpoints.read(trained_run / "checkpoints" / "step-00000012.pt").state
        weights = model.network.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in state[network].items())
        other = state["student" if network == "teacher" else "teacher"]
        assert not all(torch.equal(tensor, weights[name]) for name, tensor in other.items())
        assert (model.card.source, model.card.step) == (network, 12)
        assert set(model.card.scores) == {"teacher_miou", "student_miou"}
        last = read_card(trained_run / LAST)
        kept = ("network", "options", "classes", "palette", "mean", "std", "inference", "recipe", "versions")
        assert all(getattr(model.card, key) == getattr(last, key) for key in kept)

    def test_scores_of_another_step_are_left_out(self, trained_run, tmp_path):
        run = shutil.copytree(trained_run, tmp_path / "run")
        state = checkpoints.read(run / "checkpoints" / "step-00000012.pt").state
        checkpoints.save(run / "checkpoints" / "step-00000009.pt", 9, state, {}, {}, keep=1)
        model = load_source(run, "teacher")
        assert (model.card.step, model.card.scores) == (9, {})

    def test_of_a_weights_file(self, trained_run, tmp_path):
        path = tmp_path / "deep" / "model.safetensors"
        assert cli("export", trained_run / LAST, "-o", path).code == 0
        assert read_card(path) == read_card(trained_run / LAST)
        assert path.read_bytes() == (trained_run / LAST).read_bytes()

    def test_the_wrong_network(self, trained_run, tmp_path):
        refusal = cli("export", trained_run / LAST, "--network", "student", "-o", tmp_path / "m.safetensors").refusal
        assert "last.safetensors holds the teacher, not the student." in refusal
        assert "Export the student from the run directory." in refusal

    def test_the_file_needs_nothing_else(self, exported, tmp_path, image):
        """In another process, from another folder, the run being out of reach."""
        alone = shutil.copy(exported / "model.safetensors", tmp_path / "alone.safetensors")
        np.save(tmp_path / "image.npy", image)
        code = (
            "import sys, numpy, farcluss\n"
            "model = farcluss.load(sys.argv[1])\n"
            "numpy.save('probs.npy', model.probs(numpy.load('image.npy')).numpy())\n"
            "print(*model.classes)"
        )
        result = warm.python(code, alone, cwd=tmp_path)
        assert result.out.split() == ["ground", "disk", "bar", "tile", "ring", "star"], result
        expected = farcluss.load(exported / "model.safetensors").probs(image).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "probs.npy"), expected, atol=1e-6)

    @pytest.mark.parametrize("option", ["-o", "--onnx"])
    def test_nothing_is_overwritten_unasked(self, trained_run, tmp_path, option):
        path, other = tmp_path / "taken", tmp_path / "model.safetensors"
        path.write_text("precious")
        words = ["export", trained_run, option, path] + (["-o", other] if option == "--onnx" else [])
        refusal = cli(*words).refusal
        assert f"{path} exists already. Use --overwrite, or another name." in refusal
        assert path.read_text() == "precious" and not other.exists()

    def test_but_when_asked(self, trained_run, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_text("stale")
        assert cli("export", trained_run, "-o", path, "--overwrite").code == 0
        assert farcluss.load(path).card.step == 12


class TestRefusals:
    @pytest.fixture
    def run(self, trained_run, tmp_path):
        return shutil.copytree(trained_run, tmp_path / "run")

    def test_no_such_source(self, tmp_path):
        assert f"There is no weights file {tmp_path / 'gone'}" in cli("export", tmp_path / "gone").refusal

    def test_a_folder_without_weights(self, tmp_path):
        refusal = cli("export", tmp_path, "-o", tmp_path / "m.safetensors").refusal
        assert f"There is no weights file {tmp_path / LAST}" in refusal

    def test_a_run_without_checkpoints(self, run, tmp_path):
        shutil.rmtree(run / "checkpoints")
        assert "has no checkpoint" in cli("export", run, "-o", tmp_path / "m.safetensors").refusal

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
    def test_a_damaged_checkpoint(self, run, tmp_path, content):
        path = run / "checkpoints" / "step-00000012.pt"
        path.write_bytes(content)
        refusal = cli("export", run, "-o", tmp_path / "m.safetensors").refusal
        assert f"step-00000012.pt is damaged: it has {len(content)} of " in refusal
        seal(path)
        refusal = cli("export", run, "-o", tmp_path / "m.safetensors").refusal
        assert "step-00000012.pt cannot be read" in refusal and not (tmp_path / "m.safetensors").exists()

    @pytest.mark.parametrize("state", [{"step": 2}, {"step": 2, "teacher": {"a": torch.zeros(1)}}])
    def test_a_checkpoint_of_another_network(self, run, tmp_path, state):
        path = run / "checkpoints" / "step-00000012.pt"
        torch.save(state, path)
        seal(path)
        refusal = cli("export", run, "-o", tmp_path / "m.safetensors").refusal
        assert f"The newest checkpoint of {run} does not fit {run / LAST}." in refusal

    def test_a_place_that_cannot_be_written(self, trained_run, tmp_path):
        (tmp_path / "file").touch()
        refusal = cli("export", trained_run, "-o", tmp_path / "file" / "m.safetensors").refusal
        assert "m.safetensors cannot be written" in refusal and "another path" in refusal


class TestOnnx:
    def test_agrees_with_pytorch(self, exported, image):
        """Images in [0, 1] go in, probabilities come out; normalization is in the graph."""
        session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
        unit = image[None].astype(np.float32) / 255
        (probs,) = session.run(["probs"], {"images": unit})
        expected = farcluss.load(exported / "model.safetensors").probs(image).numpy()
        np.testing.assert_allclose(probs[0], expected, atol=1e-4)

    @pytest.mark.parametrize("batch", [1, 3])
    def test_the_batch_is_dynamic(self, exported, image, batch):
        session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
        unit = np.stack([np.roll(image, shift, 2) for shift in range(batch)]).astype(np.float32) / 255
        (probs,) = session.run(None, {"images": unit})
        assert probs.shape == (batch, 6, 32, 32)
        model = farcluss.load(exported / "model.safetensors")
        for one, alone in zip(probs, unit, strict=True):
            np.testing.assert_allclose(one, model.probs(alone).numpy(), atol=1e-4)

    def test_metadata(self, exported):
        graph = onnx.load(exported / "model.onnx")
        onnx.checker.check_model(graph)
        facts = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
        card = read_card(exported / "model.safetensors")
        assert facts["classes"] == card.classes
        assert [tuple(color) for color in facts["palette"]] == list(card.palette)
        assert facts["range"] == "images in [0, 1]"

    def test_a_graph_that_disagrees_is_not_written(self, trained_run, tmp_path, monkeypatch):
        class Wrong:
            def __init__(self, *_, **__):
                pass

            def run(self, _, inputs):
                return [np.zeros((2, 6, 8, 8), np.float32)]

        class Program:
            model_proto = onnx.ModelProto()

        monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
        with pytest.raises(WeightsError, match=r"The graph disagrees with PyTorch by .* not written"):
            export_onnx(load_source(trained_run, "teacher"), tmp_path / "m.onnx", (8, 8))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
    def test_without_the_extra(self, trained_run, tmp_path, monkeypatch, package):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            PluginError, match=rf"ONNX export needs {package}\. Install it: pip install 'farcluss\[onnx\]'"
        ):
            export_onnx(load_source(trained_run, "teacher"), tmp_path / "m.onnx", (8, 8))

    def test_without_the_extra_nothing_is_written(self, trained_run, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        words = ["export", trained_run, "-o", tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx"]
        assert "farcluss[onnx]" in cli(*words).refusal
        assert not list(tmp_path.iterdir())
