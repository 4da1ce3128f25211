"""Several weights files as one model: averaged by hand, and refused where they do not fit."""

import numpy as np
import pytest
import torch
from commandline import cli
from PIL import Image

from farcluss.errors import WeightsError
from farcluss.inference.ensemble import load_together, members
from farcluss.inference.weights import load, save_weights


@pytest.fixture(scope="module")
def weights(trained_run, tmp_path_factory):
    """Three weights files of one recipe, and the networks in them."""
    folder = tmp_path_factory.mktemp("ensemble")
    paths = []
    for number in range(3):
        model = load(trained_run / "weights/last.safetensors")
        torch.manual_seed(number)
        for parameter in model.network.parameters():
            parameter.data += 0.2 * number * parameter.data.std() * torch.randn_like(parameter)
        paths.append(folder / f"{number}.safetensors")
        save_weights(paths[-1], model.network, model.card)
    return paths


@pytest.mark.parametrize("settings", [{}, {"window": (32, 32), "flip": True, "scales": (1.0, 0.75), "stride": 0.5}])
def test_probabilities_are_the_mean(weights, settings):
    image = np.random.default_rng(0).integers(0, 256, (3, 48, 40), np.uint8)
    together = load_together(weights)
    settings = together.card.inference.model_copy(update={"window": None, "flip": False, **settings})
    alone = [load(path).with_inference(settings).probs(image).double() for path in weights]
    found = together.with_inference(settings).probs(image)
    torch.testing.assert_close(found.double(), torch.stack(alone).mean(0), rtol=0, atol=1e-6)
    assert not torch.allclose(found.double(), alone[0], atol=1e-3)
    np.testing.assert_array_equal(together.with_inference(settings).predict(image), found.argmax(0))
    assert (
        len(members(together)) == 3
        and members(load_together(weights[:1]))[0].card.scores == load(weights[0]).card.scores
    )


def test_predict_averages(weights, image_folder, tmp_path):
    images = image_folder / "images/val"
    options = ("--device", "cpu", "--probs", "-o", tmp_path / "out")
    result = cli("predict", weights[0], images, "--also", weights[1], "--also", weights[2], *options)
    assert result.code == 0, result.err
    for path in images.iterdir():
        image = np.moveaxis(np.asarray(Image.open(path)), 2, 0)
        mean = np.mean([load(each).probs(image).numpy() for each in weights], axis=0)
        np.testing.assert_allclose(np.load(tmp_path / f"out/{path.stem}_probs.npy"), mean, atol=1e-3)
        np.testing.assert_array_equal(Image.open(tmp_path / "out" / path.name), mean.argmax(0))


@pytest.mark.parametrize(("name", "value"), [("classes", None), ("mean", [0.1, 0.2, 0.3])])
def test_weights_that_do_not_fit_together(weights, tmp_path, name, value):
    model = load(weights[0])
    value = value or [f"{each}2" for each in model.card.classes]
    save_weights(tmp_path / "other.safetensors", model.network, model.card.model_copy(update={name: value}))
    with pytest.raises(WeightsError, match=f"other.safetensors and .* differ in {name}"):
        load_together([weights[0], tmp_path / "other.safetensors"])
