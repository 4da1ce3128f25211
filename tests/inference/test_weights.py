"""One file is one model: what it holds, that it comes back, and what is said about files that do not."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from registered import registered
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_network import TinyNetwork

import farcluss
from farcluss.errors import FarclussError, RecipeError, WeightsError
from farcluss.inference.card import Card, Inference, inference_of
from farcluss.inference.probs import BROKEN
from farcluss.inference.weights import Model, load, read_card, save_weights
from farcluss.recipes.model import Eval
from farcluss.recipes.reading import load_recipe
from farcluss.runs.atomic import write_atomically

CLASSES = ["sky", "road", "tree"]
CARD = Card(
    network="tiny", options={}, channels=2, dim=4, classes=CLASSES, palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
    mean=[0.25, 0.5], std=[0.5, 0.125], inference=Inference(), source="teacher", step=7, scores={"miou": 0.1},
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny():
    with registered("network", "tiny", TinyNetwork):
        yield


@pytest.fixture
def network():
    torch.manual_seed(3)
    return TinyNetwork(2, 3, 4, False)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (2, 9, 7), np.uint8)


def saved(tmp_path: Path, network, card: Card = CARD) -> Path:
    path = tmp_path / "deep" / "model.safetensors"
    save_weights(path, network, card)
    return path


class TestRoundTrip:
    def test_tensors_and_card(self, tmp_path, network):
        model = load(saved(tmp_path, network))
        assert model.card == CARD
        state = network.state_dict()
        assert model.network.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.network.state_dict().items())
        assert not model.network.training
        assert (model.classes, model.device.type) == (CLASSES, "cpu")

    def test_predictions(self, tmp_path, network, image):
        """Against normalization, network and softmax written out."""
        scaled = image.astype(np.float64) / 255
        normed = (scaled - np.array([0.25, 0.5])[:, None, None]) / np.array([0.5, 0.125])[:, None, None]
        with torch.no_grad():
            logits = network.double()(torch.from_numpy(normed)[None]).logits[0].numpy()
        exp = np.exp(logits - logits.max(0))
        model = load(saved(tmp_path, network.float()))
        np.testing.assert_allclose(model.probs(image).numpy(), exp / exp.sum(0), atol=1e-5)
        assert model.predict(image).dtype == np.uint8
        np.testing.assert_array_equal(model.predict(image), logits.argmax(0))

    def test_float_images_are_taken_as_they_are(self, network, image):
        model = Model(network, CARD)
        unit = image.astype(np.float32) / 255
        torch.testing.assert_close(model.probs(unit), model.probs(image))

    def test_views_of_arrays(self, network, image):
        model = Model(network, CARD)
        mirrored = image[:, :, ::-1]
        torch.testing.assert_close(model.probs(mirrored), model.probs(mirrored.copy()))


def test_the_metadata_of_a_run_says_everything(trained_run):
    with safe_open(trained_run / "weights" / "last.safetensors", framework="numpy") as file:
        card = json.loads(file.metadata()["farcluss"])
    assert card["network"] == "deeplabv3plus"
    assert card["options"] == {"encoder": "test_resnet", "output_stride": 8, "aspp_channels": 16, "head_channels": 16}
    assert (card["channels"], card["dim"], card["step"], card["source"]) == (3, 8, 12, "teacher")
    assert card["classes"] == ["ground", "disk", "bar", "tile", "ring", "star"]
    assert card["palette"][1] == [230, 159, 0] and len(card["palette"]) == 6
    assert (card["mean"], card["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    windows = {"window": None, "stride": 2 / 3, "blend": "mean"}
    assert card["inference"] == windows | {"precision": "float32", "flip": False, "scales": [1.0]}
    assert card["versions"]["farcluss"] == farcluss.__version__
    assert card["versions"]["torch"] == torch.__version__
    assert card["recipe"]["data"]["labeled"] == "4/12"
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "eval"][-1]
    assert card["scores"]["miou"] == card["scores"]["teacher_miou"] == logged["teacher_miou"]
    assert card["scores"]["student_miou"] == logged["student_miou"]
    assert card["scores"]["pixel_accuracy"] == logged["scores"]["teacher"]["pixel_accuracy"]
    assert (card["scores"]["network"], card["scores"]["selection"]) == ("teacher", "last")


def test_best_says_how_it_was_chosen(trained_run):
    card = read_card(trained_run / "weights" / "best.safetensors")
    assert card.scores["selection"] == "best teacher mIoU on data.val"
    assert (card.scores["network"], card.scores["step"], card.step) == ("teacher", 12, 12)


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({}, None),
        ({"mode": "sliding"}, (5, 6)),
        ({"mode": "sliding", "window": 4}, (4, 4)),
        ({"mode": "sliding", "window": [4, 8]}, (4, 8)),
        ({"window": 4}, None),
    ],
)
def test_the_window_defaults_to_the_crop(settings, window):
    assert inference_of(Eval(**settings), (5, 6)).window == window


def test_inference_is_stored(trained_run):
    settings = ["eval.flip=true", "eval.scales=[0.5, 2]", "eval.blend=gaussian"]
    recipe = load_recipe(trained_run / "recipe.toml", settings=settings)
    assert inference_of(recipe.eval, (32, 32)) == Inference(flip=True, scales=(0.5, 2.0), blend="gaussian")


class TestModel:
    def test_another_way_of_predicting(self, network, image):
        model = Model(network, CARD)
        flipped = model.with_inference(Inference(flip=True))
        assert flipped.network is model.network and model.card.inference == Inference()
        mirror = torch.from_numpy(model.probs(image[:, :, ::-1]).numpy()[:, :, ::-1].copy())
        torch.testing.assert_close(flipped.probs(image), (model.probs(image) + mirror) / 2)

    @pytest.mark.parametrize("training", [True, False])
    def test_training_mode_is_restored(self, network, image, training):
        network.train(training)
        Model(network, CARD).probs(image)
        assert network.training is training

    def test_and_after_a_failure_too(self, network, image, monkeypatch):
        def broken(images):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(network, "forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            Model(network.train(), CARD).probs(image)
        assert network.training

    def test_no_gradients_are_kept(self, network, image):
        assert not Model(network, CARD).probs(image).requires_grad

    def test_wrong_channels(self, network):
        with pytest.raises(WeightsError, match=r"The image has shape \(3, 4, 4\), the network takes \(2, H, W\)\.$"):
            Model(network, CARD).probs(np.zeros((3, 4, 4), np.uint8))

    def test_to_moves_and_returns_it(self, network):
        model = Model(network, CARD)
        assert model.to("cpu") is model


PICTURE = np.random.default_rng(1).integers(0, 256, (3, 9, 7), np.uint8)
UNIT = PICTURE / 255
COLOR = CARD.model_copy(update={"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3})
MOVED = "numpy.moveaxis(image, -1, 0)"


class TestImages:
    """What `predict` takes is predicted as the same picture in 8 bits is; all else is refused."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(3)
        return Model(TinyNetwork(3, 3, 4, False), COLOR)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("kind", ["f8", "f4", "f2", ">f8", ">f4", "u2", ">u2", "path", "str", "PIL", "palette"])
    def test_one_picture_in_many_forms(self, tmp_path, model, kind):
        picture = PICTURE % 8 * 36 if kind == "palette" else PICTURE
        pil = Image.fromarray(np.moveaxis(picture, 0, 2))
        pil.save(tmp_path / "x.png")
        image = {"path": tmp_path / "x.png", "str": str(tmp_path / "x.png"), "PIL": pil, "palette": pil}.get(kind)
        if kind == "palette":
            image = pil.quantize(256)
        elif image is None:
            image = (picture.astype(int) * 257 if "u" in kind else picture / 255).astype(kind)
            image.flags.writeable = False
        torch.testing.assert_close(
            model.probs(image), model.probs(picture), atol=2e-3 if kind == "f2" else 1e-5, rtol=0
        )
        assert (model.predict(image) == model.predict(picture)).mean() > 0.98

    @pytest.mark.parametrize(
        ("image", "words"),
        [
            *[(PICTURE.astype(kind), f"type {np.dtype(kind)}") for kind in ("i8", "i4", "i2", "u4", "?", "c8")],
            (PICTURE.astype(np.float32), "from 2 to 255"),
            (UNIT - 0.5, "float images must lie in [0, 1]"),
            (np.where(UNIT > 0.5, np.nan, UNIT), "not finite, such as nan"),
            (np.where(UNIT > 0.5, np.inf, UNIT), "not finite, such as inf"),
            (np.moveaxis(PICTURE, 0, 2), MOVED),
            (PICTURE[0], r"(9, 7), the network takes (3, H, W)"),
            (PICTURE[:, :0], "no pixels"),
            ("gone.png", "gone.png does not exist"),
        ],
    )
    def test_what_is_no_such_picture(self, model, image, words):
        with pytest.raises(FarclussError) as caught:
            model.predict(image)
        assert words in str(caught.value)

    def test_images_of_any_range(self):
        card = COLOR.model_copy(update={"value_range": None})
        torch.manual_seed(3)
        model = Model(TinyNetwork(3, 3, 4, False), card)
        assert np.array_equal(model.predict(UNIT * 300 - 7), model.predict((UNIT * 300 - 7).astype(np.float32)))
        with pytest.raises(FarclussError, match="not finite"):
            model.predict(UNIT * 1e300)

    @pytest.mark.parametrize("flip", [False, True])
    def test_an_output_that_is_not_finite_is_no_class(self, network, image, flip):
        network.classifier.bias.data[1] = torch.nan
        model = Model(network, CARD).with_inference(Inference(flip=flip))
        assert (model.classify(torch.from_numpy(image)[None]) == BROKEN).all()
        with pytest.raises(WeightsError, match="output for the image is not finite"):
            model.predict(image)


class TestDamage:
    def test_any_changed_byte_is_noticed(self, tmp_path, network):
        """Whatever a byte becomes: the file is refused, or it was in a name that nothing reads."""
        whole = saved(tmp_path, network).read_bytes()
        path, rng = tmp_path / "bad.safetensors", np.random.default_rng(0)
        for place in [*rng.integers(0, len(whole), 150), len(whole) - 1]:
            content = bytearray(whole)
            content[place] ^= int(rng.integers(1, 256))
            path.write_bytes(content)
            with pytest.raises(FarclussError, match=re.escape(str(path))):
                load(path)

    def test_files_of_one_model_are_equal(self, tmp_path, network):
        first = saved(tmp_path, network).read_bytes()
        assert all(saved(tmp_path, network).read_bytes() == first for _ in range(5))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, tmp_path, network, value):
        network.classifier.weight.data[0] = value
        with pytest.raises(WeightsError, match=r"not finite, in classifier\.weight\."):
            load(saved(tmp_path, network))

    def test_a_huge_network_is_not_built(self, tmp_path, network):
        path = saved(tmp_path, network, CARD.model_copy(update={"options": {"width": 10**7}}))
        with pytest.raises(WeightsError, match=r"model.safetensors describes a network of [\d,]+ or more parameters"):
            load(path)

    def test_a_network_that_cannot_be_built(self, tmp_path, network):
        path = saved(tmp_path, network, CARD.model_copy(update={"options": {"width": 10**30}}))
        with pytest.raises(WeightsError, match=r"model.safetensors describes a tiny that cannot be built") as caught:
            load(path)
        assert "uninstall" not in str(caught.value)


CARDS = [
    {"mean": [0.5]}, {"mean": [0.5] * 3}, {"std": [0.5]}, {"std": [0, 1]}, {"std": [-1, 1]}, {"mean": [1e999, 0]},
    {"channels": 0}, {"channels": 10**30}, {"dim": -1}, {"dim": 10**9}, {"classes": []}, {"classes": ["a"] * 255},
    {"palette": []}, {"palette": [[0, 0, 0]]}, {"palette": [[0, 0, 0]] * 7}, {"palette": [[0, 0, 256]] * 3},
    {"axes": 4}, {"mask_values": [0]}, {"mask_values": [0, 1, "red"]}, {"recipe": []}, {"recipe": {"eval": []}},
    {"recipe": {"eval": {"writer": 5}}}, {"recipe": {"eval": {"stride": 0}}}, {"recipe": {"data": 3}},
]  # fmt: skip
INFERENCE = [
    {"window": [0, 4]}, {"window": [-3, 4]}, {"window": [4]}, {"window": [4, 4, 4]}, {"window": []}, {"stride": 0},
    {"stride": -1}, {"stride": 2}, {"stride": "x"}, {"scales": []}, {"scales": [0]}, {"scales": [-1]},
    {"scales": [1e5]}, {"scales": [1e999]}, {"scales": [1] * 99}, {"blend": "hann"},
]  # fmt: skip


@pytest.mark.parametrize("change", [*CARDS, *({"inference": change} for change in INFERENCE)])
def test_impossible_cards(tmp_path, network, change):
    """They are refused when the card is read, in two lines that name file and key, before anything is built."""
    table = CARD.model_dump(mode="json")
    path = tmp_path / "card.safetensors"
    save_file(network.state_dict(), path, {"farcluss": json.dumps({**table, **change})})
    with pytest.raises(WeightsError) as caught:
        read_card(path)
    text = str(caught.value)
    assert str(path) in text and next(iter(change)) in text.replace("the window", "inference") and len(text) < 400
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("change", [one for one in INFERENCE if one not in ({"window": [4]}, {"window": [4] * 3})])
def test_recipes_have_the_same_bounds(change):
    with pytest.raises(ValidationError):
        Eval(**change)


@pytest.mark.parametrize("window", [[4], [4, 4, 4]])
def test_a_window_of_other_axes(window):
    sides = f"{len(window)} side{'s'[: len(window) > 1]}"
    with pytest.raises(RecipeError, match=rf"eval.window has {sides}, the images have 2 axes"):
        inference_of(Eval(window=window), (32, 32))


class TestRefusals:
    def test_missing(self, tmp_path):
        with pytest.raises(WeightsError, match=r"There is no weights file .*gone.* A run writes them to RUN/weights/"):
            load(tmp_path / "gone.safetensors")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not safetensors", b"\x08\0\0\0\0\0\0\0{}garbage"])
    def test_damaged(self, tmp_path, content):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad.safetensors is not a readable safetensors file"):
            load(path)

    def test_truncated(self, tmp_path, network):
        path = saved(tmp_path, network)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(WeightsError, match=r"model.safetensors is not a readable safetensors file"):
            load(path)

    def test_a_folder(self, tmp_path):
        with pytest.raises(WeightsError, match=r"is a folder, not a weights file\. .*RUN/weights/"):
            load(tmp_path)

    @pytest.mark.parametrize(
        "metadata",
        [
            None,
            {"other": "x"},
            {"farcluss": "{"},
            {"farcluss": "[]"},
            {"farcluss": '{"network": "x"}'},
            {"farcluss": "[" * 10**5},
        ],
    )
    def test_not_ours(self, tmp_path, metadata):
        path = tmp_path / "foreign.safetensors"
        save_file({"a": torch.zeros(1)}, path, metadata)
        with pytest.raises(WeightsError) as caught:
            load(path)
        assert "is not a farcluss model" in str(caught.value) and "network.pretrained" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 2

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"dim": 5}, "embed"),
            ({"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}, "body.0.weight"),
            ({"dim": 0}, "in the file, absent here"),
        ],
    )
    def test_tensors_that_do_not_fit(self, tmp_path, network, change, word):
        path = saved(tmp_path, network, CARD.model_copy(update=change))
        with pytest.raises(WeightsError) as caught:
            load(path)
        text = str(caught.value)
        assert f"{path} does not fit network 'tiny': " in text and word in text
        assert len(text.splitlines()) == 1

    def test_a_place_that_cannot_be_written(self, tmp_path, network):
        (tmp_path / "file").touch()
        with pytest.raises(WeightsError, match=r"model.safetensors cannot be written: .*Choose another path"):
            save_weights(tmp_path / "file" / "model.safetensors", network, CARD)


class TestWriteAtomically:
    def test_writes_and_replaces(self, tmp_path):
        path = tmp_path / "a" / "b" / "file.bin"
        for content in (b"one", b"two"):
            write_atomically(path, content)
            assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file.bin"]
        assert path.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("broken", ["fsync", "replace"])
    def test_the_old_file_stays_when_writing_fails(self, tmp_path, monkeypatch, broken):
        path = tmp_path / "file.bin"
        path.write_bytes(b"old")

        def fails(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, broken, fails)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file.bin"]
