"""A data set says what it is: the recipe's own key wins, then the data set, then the general default."""

import itertools
import json
import re

import numpy as np
import pytest
from commandline import cli
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss import load
from farcluss.data.base import Defaults, Item, Sample
from farcluss.errors import PluginError, RecipeError
from farcluss.inference.writers import PngWriter
from farcluss.learning.build import build_dataset, build_parts, check_images
from farcluss.learning.contracts import Stages
from farcluss.plugins import registry
from farcluss.recipes.model import GENERAL, Data, Eval, Recipe
from farcluss.recipes.reading import load_recipe
from farcluss.recipes.sections import Part
from farcluss.recipes.training import Train
from farcluss.stages.augment import Identity, Photometric

KEYS = {"channels": (2, 5), "flip_axes": ([0], [0, 1]), "turns": ([(0, 1)], []), "mean": (0.25, 0.0), "std": (2.0, 0.5)}


def recipe_of(**data):
    writer = data.pop("writer", None)
    return Recipe(data=Data(**data), train=Train(steps=1), eval=Eval(writer=writer))


@settings(max_examples=60)
@given(st.data())
def test_every_key_by_itself(draw):
    """For any mixture of keys that recipe and data set give: recipe, else data set, else the general default."""
    own, known = ({key: values[n] for key, values in KEYS.items() if draw.draw(st.booleans())} for n in (0, 1))
    recipe = recipe_of(**own)
    defaults = Defaults(**known)
    filled, sources = recipe.with_defaults(defaults), recipe.sources(defaults)
    for key in KEYS:
        general = getattr(GENERAL, key)
        assert getattr(filled.data, key) == own.get(key, known.get(key, general))
        assert sources[f"data.{key}"] == ("recipe" if key in own else "data set" if key in known else "default")
    other = Defaults(channels=9, flip_axes=[9], turns=[(9, 9)], writer="other")
    assert filled.with_defaults(other) == filled


@pytest.mark.parametrize(("own", "known"), list(itertools.product(["a", None], ["b", None])))
def test_the_writer(own, known):
    filled = recipe_of(writer=own).with_defaults(Defaults(writer=known))
    assert filled.eval.writer.name == (own or known or "png")


def test_statistics_follow_the_number_of_channels():
    known = recipe_of().with_defaults(Defaults(channels=2)).data
    assert (known.channel_mean, known.channel_std) == ([0.5] * 2, [0.25] * 2)
    assert recipe_of().with_defaults(Defaults()).data.channel_mean == [0.485, 0.456, 0.406]
    stages = Stages(Identity(), None, None, None, None, None, None)
    with pytest.raises(RecipeError, match=r"data\.mean has 3 values for 2 channels"):
        recipe = recipe_of(mean=[0.1, 0.2, 0.3])
        check_images(recipe.with_defaults(Defaults(channels=2)), Defaults(channels=2), stages)


@pytest.mark.parametrize(
    ("bounds", "fits"), [((0.0, 1.0), True), ((0.25, 0.5), True), ((0.0, 1.5), False), (None, False)]
)
def test_a_strong_view_for_colors_is_refused_for_other_values(bounds, fits):
    """It clips to [0, 1], which would take half of an image that is in units of its deviation."""
    stages = Stages(Photometric(), None, None, None, None, None, None, {"augment": "photometric"})
    known = Defaults(value_range=bounds)
    if fits:
        check_images(recipe_of().with_defaults(known), known, stages)
        return
    with pytest.raises(PluginError, match=r"photometric is for images in \[0, 1\].*\n.*\"intensity\"") as caught:
        check_images(recipe_of().with_defaults(known), known, stages)
    assert len(str(caught.value).splitlines()) == 2


class Deep:
    """Images of two channels and any values, which say so."""

    classes, palette = ("a", "b"), ((0, 0, 0), (255, 255, 255))
    defaults = Defaults(channels=2, mean=0.0, std=1.0, writer="noted", value_range=None)

    def __init__(self, data):
        self.all = {split: [Item(f"{split}{n}", f"{split}{n}", "mask") for n in range(4)] for split in ("train", "val")}

    def items(self, split):
        return self.all[split]

    def size(self, item):
        return 16, 16

    def read(self, item, window=None):
        window = window or (slice(None),) * 2
        values = np.random.default_rng(len(item.id)).normal(0, 3, (2, 16, 16)).astype(np.float32)
        return Sample(values[(slice(None), *window)], (values[0] > 0).astype(np.uint8)[window])


@pytest.fixture
def recipe(tiny_recipe):
    text = re.sub(r"layout = .*", 'layout = "deep"', tiny_recipe.read_text()).replace("crop = 32", "crop = 16")
    tiny_recipe.write_text(text.replace('"4/12"', '"1/2"').replace("[stages]", '[stages]\naugment = "identity"'))
    registry.register("dataset", "deep", Deep)
    registry.register("writer", "noted", PngWriter)
    yield tiny_recipe
    registry.unregister("dataset", "deep")
    registry.unregister("writer", "noted")


def test_a_run_takes_what_the_data_set_says(recipe, tmp_path):
    """Through training, the run's own recipe and the weights file, to the options of the writer."""
    assert cli("run", recipe, "-o", tmp_path / "run").code == 0
    written = load_recipe(tmp_path / "run" / "recipe.toml")
    assert (written.data.channels, written.data.mean, written.eval.writer.name) == (2, 0.0, "noted")
    card = load(tmp_path / "run" / "weights" / "last.safetensors").card
    assert (card.channels, card.mean, card.std) == (2, [0.0, 0.0], [1.0, 1.0])
    assert card.recipe["eval"]["writer"] == {"name": "noted"}
    again = build_parts(written).recipe
    assert again == written


def test_check_says_what_is_from_where(recipe):
    result = cli("check", recipe, "--set", "data.std=2.0")
    assert result.code == 0, result
    lines = [line.split() for line in result.out.splitlines()]
    for key, value, source in (("data.channels", "2", "(data set)"), ("data.std", "2.0,", "(recipe)")):
        assert next(line for line in lines if line[:1] == [key])[1] == value
        assert next(" ".join(line) for line in lines if line[:1] == [key]).endswith(source)
    assert "data.flip_axes -1 (default)" in result.out and "eval.writer    noted (data set)" in result.out
    table = json.loads(cli("check", recipe, "--json").out)["settings"]
    assert table["data.mean"] == {"value": [0.0, 0.0], "from": "data set"}
    assert table["data.classes"] == {"value": ["a", "b"], "from": "data set"}
    assert "photometric is for images in [0, 1]" in cli("check", recipe, "--set", "stages.augment=photometric").refusal


@pytest.mark.parametrize(("channels", "given"), [(5, None), (5, 5), (3, None), (1, None)])
def test_a_folder_of_arrays_tells_its_channels(image_folder, channels, given):
    """Those of more than colors; of others three are wanted, as pretrained networks do."""
    for number in range(6):
        path = image_folder / f"images/train/{number}"
        path.with_suffix(".png").unlink()
        np.save(path.with_suffix(".npy"), np.zeros((20, 24, channels), np.float32))
    data = Data(root=image_folder, classes=["a", "b", "c"], channels=given, layout=Part(
        name="folder", images="images/train", masks="masks/train"))  # fmt: skip
    dataset = build_dataset(data)
    wanted = 5 if channels == 5 else 3
    assert dataset.read(dataset.items("train")[0]).image.shape == (wanted, 20, 24)
    assert data.with_defaults(dataset.defaults).channels == wanted
