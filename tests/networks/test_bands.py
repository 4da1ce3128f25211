"""Pretrained weights for other bands than those of the images: picked by name, refused where they are not known."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import farcluss
from farcluss.errors import FarclussError, PluginError, RecipeError, WeightsError
from farcluss.inference.weights import build_network
from farcluss.learning.build import build_parts, pretrained_bands
from farcluss.networks.bands import Bands, adapt_channels, bands_of
from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.plugins import registry
from farcluss.recipes.model import Recipe

SENTINEL2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def recipe(names, channels, pretrained="weights.pth", **network):
    return Recipe.model_validate(
        {
            "data": {"channel_names": channels, "channels": channels and len(channels)},
            "network": {"pretrained": pretrained, "pretrained_bands": names, **network},
            "train": {"steps": 1},
        }
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a transformer, and one of a ResNet, for the 13 bands of Sentinel-2."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    for name in ("test_vit", "test_resnet"):
        torch.save(timm.create_model(name, in_chans=13, num_classes=0).state_dict(), folder / f"{name}.pth")
    return folder


def first(network):
    """The first convolution of a network."""
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    ("channels", "rows"),
    [
        (["B2", "B3", "B4", "B8"], (1, 2, 3, 7)),
        (["B8", "B4", "B3"], (7, 3, 2)),  # in another order: false color
        (["b02", "_B03", "B8a", "B08"], (1, 2, 8, 7)),
        (list(reversed(SENTINEL2)), tuple(range(12, -1, -1))),
        (["B04"], (3,)),
    ],
)
def test_names_give_rows(channels, rows):
    assert bands_of(SENTINEL2, channels) == Bands(SENTINEL2, rows)


@pytest.mark.parametrize(
    ("names", "channels", "said"),
    [
        (SENTINEL2, ["B2", "red", "nir"], "the images have red, nir, which the weights were not trained with"),
        (("B1", "B01"), ["B1"], "'B1' and 'B01' are one band"),
        (("B1", "B10"), ["B0"], "the images have B0,"),
    ],
)
def test_unknown_names_are_refused(names, channels, said):
    with pytest.raises(RecipeError, match=said):
        bands_of(names, channels)


@pytest.mark.parametrize(("name", "encoder"), [("dpt", "test_vit"), ("deeplabv3plus", "test_resnet"), ("smp", "tu-")])
@pytest.mark.parametrize("channels", [["B4", "B3", "B2"], ["B8"], [*SENTINEL2[::-1]]])
def test_each_channel_gets_the_weights_of_its_band(weights, name, encoder, channels):
    encoder = "tu-test_resnet" if name == "smp" else encoder
    path = weights / f"{encoder.removeprefix('tu-')}.pth"
    bands = bands_of(SENTINEL2, channels)
    network = build_network(name, {"encoder": encoder}, len(channels), 2, 0, str(path), bands)
    stored = torch.load(path, weights_only=True)
    given = next(tensor for tensor in stored.values() if tensor.ndim == 4).double().numpy()
    expected = np.stack([given[:, SENTINEL2.index(each)] for each in channels], 1) * 13 / len(channels)
    torch.testing.assert_close(first(network).weight.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-9)
    assert f"reads {' '.join(channels)} of 13 bands" in network.pretrained_report
    assert "timm's weights" not in network.pretrained_report  # whose mean and std are of other images


def test_bands_that_look_alike_respond_as_the_file_does():
    """Without a difference between the bands, it does not matter how many of them the images have."""
    weight, gray = torch.randn(4, 13, 3, 3), torch.rand(1, 1, 8, 8)
    weight = weight.mean(1, keepdim=True).expand(-1, 13, -1, -1)
    expected = nn.functional.conv2d(gray.expand(-1, 13, -1, -1), weight)
    bands = bands_of(SENTINEL2, ["B2", "B8"])
    found = nn.functional.conv2d(gray.expand(-1, 2, -1, -1), adapt_channels(weight, 2, bands))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4, 14])
def test_weights_for_unnamed_bands_are_refused(weights, channels):
    with pytest.raises(WeightsError, match=r"(?s)for images of 13 bands, these have .*network.pretrained_bands"):
        build_network("dpt", {"encoder": "test_vit"}, channels, 2, 0, str(weights / "test_vit.pth"))


def test_as_many_channels_need_no_names(weights):
    network = build_network("dpt", {"encoder": "test_vit"}, 13, 2, 0, str(weights / "test_vit.pth"))
    stored = torch.load(weights / "test_vit.pth", weights_only=True)["patch_embed.proj.weight"]
    assert torch.equal(first(network).weight, stored)


def test_too_few_names_are_refused(weights):
    bands = bands_of(SENTINEL2[:12], ["B2"])
    with pytest.raises(WeightsError, match="names 12 bands, the weights are for images of 13"):
        deeplabv3plus(1, 2, 0, str(weights / "test_resnet.pth"), bands, encoder="test_resnet")


@pytest.mark.parametrize("given", [1, 2, 3])
def test_up_to_three_channels_are_repeated(given):
    """What is gray, a pair, or a color picture is a start for any channels, as ever."""
    weight = torch.randn(4, given, 3, 3)
    assert torch.equal(adapt_channels(weight, 5), weight[:, torch.arange(5) % given] * (given / 5))


def test_a_recipe_names_both():
    assert pretrained_bands(recipe(list(SENTINEL2), ["B2", "B8"])) == Bands(SENTINEL2, (1, 7))
    assert pretrained_bands(recipe(None, ["B2", "B8"])) is None
    assert pretrained_bands(recipe(list(SENTINEL2), ["B2"], pretrained=False)) is None
    with pytest.raises(RecipeError, match=r"(?s)have no names.*data.channel_names"):
        pretrained_bands(recipe(list(SENTINEL2), None))


def test_names_of_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match="channel_names has 2 values for 3 channels"):
        Recipe.model_validate({"data": {"channels": 3, "channel_names": ["a", "b"]}, "train": {"steps": 1}})


def test_a_network_without_bands_says_so():
    def plain(in_channels, classes, dim, pretrained):
        return nn.Conv2d(in_channels, classes, 1)

    registry.register("network", "plain", plain)
    try:
        assert isinstance(build_network("plain", {}, 3, 2, 0, False), nn.Conv2d)  # and is built as ever without
        with pytest.raises(PluginError, match="network plain does not read pretrained weights by the names"):
            build_network("plain", {}, 3, 2, 0, "w.pth", bands_of(["a"], ["a", "a", "a"]))
    finally:
        registry.unregister("network", "plain")


def test_a_recipe_of_four_bands_trains_from_thirteen(tmp_path, weights):
    """From the recipe to the first step: the student's and the teacher's first layer are the file's rows."""
    for number in range(4):
        for folder, shape in (("images", (8, 8, 4)), ("masks", (8, 8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            values = np.random.default_rng(number).integers(0, 2, shape).astype(np.uint8)
            np.save(tmp_path / folder / f"{number}.npy", values)
    text = f"""
    [data]
    root = "{tmp_path}"
    labeled = "1/2"
    val = "none"
    classes = ["a", "b"]
    crop = 8
    workers = 0
    channel_names = ["B02", "B03", "B04", "B08"]
    [network]
    name = "dpt"
    encoder = "test_vit"
    pretrained = "{weights}/test_vit.pth"
    pretrained_bands = {list(SENTINEL2)}
    [stages]
    augment = "intensity"
    [train]
    steps = 1
    batch = 2
    [eval]
    network = "student"
    """
    (tmp_path / "recipe.toml").write_text(text)
    parts = build_parts(farcluss.load_recipe(tmp_path / "recipe.toml"))
    expected = torch.load(weights / "test_vit.pth", weights_only=True)["patch_embed.proj.weight"][:, [1, 2, 3, 7]]
    for network in parts.build_networks():
        torch.testing.assert_close(first(network).weight, expected * 13 / 4)
    with pytest.raises(FarclussError, match=r"data.channel_names has 3 values for 4 channels"):
        bad = parts.recipe.data.model_copy(update={"channel_names": ["a", "b", "c"]})
        build_parts(parts.recipe.model_copy(update={"data": bad}))
