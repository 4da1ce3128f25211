"""Mean and std of images: the recipe's, the data set's, those of pretrained weights, or the general ones."""

import pytest
import timm
import torch
from commandline import cli
from registered import registered
from tiny_recipe import tiny_recipe

from farcluss import load_recipe
from farcluss.data.shapes import Shapes
from farcluss.learning.build import build_parts
from farcluss.networks.pretrained import facts_of
from farcluss.recipes.model import Defaults

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5] * 3, [0.5] * 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of an encoder whose weights timm trained with a mean and a std of one half."""
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def recipe(tmp_path, weights):
    text = tiny_recipe(network='encoder = "test_resnet"\naspp_channels = 8\nhead_channels = 8', steps=2, every=2)
    (tmp_path / "recipe.toml").write_text(text.replace('"tiny"', f'"deeplabv3plus"\npretrained = "{weights}"'))
    return tmp_path / "recipe.toml"


def scaled(recipe, *settings):
    data = build_parts(load_recipe(recipe, (), settings)).recipe.data
    return data.channel_mean, data.channel_std


def test_what_timm_knows():
    facts = facts_of("test_resnet")
    assert (facts.mean, facts.std, facts.license) == (*HALF, "apache-2.0") and facts_of("tu-test_resnet") == facts
    assert facts_of("vit_large_patch16_dinov3.sat493m").mean == pytest.approx([0.430, 0.411, 0.296])
    assert facts_of("convnext_tiny.dinov3_lvd1689m").license == "dinov3-license"
    assert facts_of("no_such_encoder") is None


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], HALF),
        (["network.pretrained=false"], IMAGENET),
        (["data.mean=0.25"], ([0.25] * 3, HALF[1])),
        (["data.mean=0.25", "data.std=0.125"], ([0.25] * 3, [0.125] * 3)),
        (["network.encoder=resnet18"], IMAGENET),  # trained with these; that the file does not fit is told later
    ],
)
def test_the_recipe_goes_first_then_the_weights(recipe, settings, wanted):
    assert scaled(recipe, *settings) == wanted


@pytest.mark.parametrize(
    ("known", "wanted"),
    [({"mean": 0.25, "std": 0.5}, ([0.25] * 3, [0.5] * 3)), ({"value_range": None}, IMAGENET)],
)
def test_the_data_set_goes_before_the_weights(recipe, known, wanted):
    """Also where its images have other values than the weights were trained with."""

    def build(data, *, train: int, val: int, size: int):
        dataset = Shapes(data, train=train, val=val, size=size)
        dataset.defaults = Defaults(**known)
        return dataset

    recipe.write_text(recipe.read_text().replace('name = "shapes"', 'name = "opinionated"'))
    with registered("dataset", "opinionated", build):
        assert scaled(recipe, "stages.augment=identity") == wanted


def test_a_run_says_what_it_read_and_a_check_where_from(recipe, tmp_path):
    found = cli("check", recipe)
    assert found.code == 0 and "data.mean      0.5, 0.5, 0.5 (weights)" in found.out, found
    assert "Warning: data.mean" not in found.err
    told = cli("run", recipe, "-o", tmp_path / "run").out
    assert "; timm's weights: mean 0.5 0.5 0.5, std 0.5 0.5 0.5, license apache-2.0" in told


def test_other_numbers_than_those_of_the_weights_are_warned_of(recipe, tmp_path):
    found = cli("check", recipe, "--set", "data.mean=0.25", "--set", "data.std=0.5")
    numbers = "data.mean = [0.25, 0.25, 0.25], data.std = [0.5, 0.5, 0.5]"
    assert f"Warning: {numbers}, unlike timm's weights: mean 0.5 0.5 0.5, std" in found.err
