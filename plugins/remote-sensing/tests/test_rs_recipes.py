"""The shipped recipes of scenes on drawn trees: they resolve as they say, build their networks, and take steps."""

import contextlib
import math
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import scene_trees
import torch
from commandline import cli
from stepping import steps_of

from farcluss import load_recipe
from farcluss.data.base import IGNORE, Item
from farcluss.data.splits import draw_share, parse_share
from farcluss.inference.card import inference_of
from farcluss.inference.probs import starts
from farcluss.inference.weights import build_network
from farcluss.learning.build import build_parts
from farcluss.recipes.reading import recipe_folder

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Known(NamedTuple):
    """What a recipe is to give on its tree.

    Attributes:
        tree: that it is for.
        sets: units that labels are drawn by (scenes, areas, tiles) in the labeled, unlabeled and validation set.
        windows: of a unit.
        classes: names.
    """

    tree: str
    sets: tuple[int, int, int]
    windows: int
    classes: tuple[str, ...]


CHANGE = ("unchanged", "changed")
COVER = ("background", "building", "road", "water", "barren", "forest", "agriculture")
TOWN = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
RECIPES = {
    "rs_dubai": Known("dubai", (2, 4, 2), 18, ("building", "land", "road", "vegetation", "water")),
    "rs_geotiff": Known("geotiff", (4, 3, 1), 2, ("water", "field", "forest", "town")),
    "rs_levir_cd_10": Known("levir", (4, 36, 6), 2, CHANGE),
    "rs_levir_cd_5": Known("levir", (2, 38, 6), 2, CHANGE),
    "rs_levir_cd_5_dinov2b": Known("levir", (2, 38, 6), 2, CHANGE),
    "rs_loveda_1_8": Known("loveda", (8, 56, 10), 2, COVER),
    "rs_potsdam_1_8": Known("potsdam", (3, 21, 14), 2, TOWN),
    "rs_vaihingen_1_8": Known("vaihingen", (2, 14, 17), 2, TOWN),
}
FAMILIES = [name for name in RECIPES if name != "rs_levir_cd_10"]
"""One of the two recipes that differ in nothing but the number of labeled pairs."""
CHANNELS = {"rs_geotiff": 4, "rs_levir_cd_5": 6, "rs_levir_cd_5_dinov2b": 6}
"""Of an image where they are not three, as its files and no recipe say."""
METHODS = (None, "supervised", "mean_teacher")
STEPPED = [(name, None) for name in FAMILIES]
STEPPED += [pytest.param(name, method, marks=pytest.mark.slow) for name in FAMILIES for method in METHODS[1:]]
STEPPED += [
    pytest.param(name, method, marks=pytest.mark.slow)
    for name in ("rs_geotiff", "rs_levir_cd_5")
    for method in ("fixmatch", "farcluss_plus")
]
SMALL = [
    "data.layout.window=40",
    "data.crop=33",
    "data.workers=0",
    "network.pretrained=false",
    "train.batch=2",
]
CONVOLUTIONS = ["network.encoder=test_resnet", "network.aspp_channels=8", "network.head_channels=8"]
TRANSFORMER = ["network.encoder=test_vit", "network.features=8"]
MODERN = "rs_levir_cd_5_dinov2b"


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Trees by name, drawn when they are first asked for; the statistics of bands as the recipe's header has them."""
    folder, drawn = tmp_path_factory.mktemp("trees"), {}

    def root(tree):
        if tree not in drawn:
            drawn[tree] = getattr(scene_trees, f"make_{tree}")(folder / tree)
            if tree == "geotiff":
                measure(drawn[tree])
        return drawn[tree]

    return root


def measure(root):
    """Run the header's command in the folder of the scenes."""
    line = next(line for line in lines_of("rs_geotiff") if line.startswith("#   farcluss rs stats"))
    words = line.removeprefix("#   farcluss ").replace("/data/scenes", root.as_posix()).split()
    with contextlib.chdir(root):
        result = cli(*words)
    assert result.code == 0 and (root / "stats.json").is_file(), result


@pytest.fixture(scope="module")
def resolved(roots):
    """Recipe and parts by name and method."""
    known = {}

    def resolve(name, method=None):
        if (name, method) not in known:
            network = TRANSFORMER if name == MODERN else CONVOLUTIONS
            settings = [f"data.root={roots(RECIPES[name].tree)}", *SMALL, *network]
            recipe = load_recipe(name, [method] if method else [], settings)
            parts = build_parts(recipe)
            known[name, method] = parts.recipe, parts
        return known[name, method]

    return resolve


@cache
def shipped(name, method=None):
    """A recipe as shipped, read once."""
    return load_recipe(name, [method] if method else [])


def lines_of(name):
    return (recipe_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()


def text_of(name):
    return "\n".join(lines_of(name))


def sets_of(splits):
    return splits.labeled, splits.unlabeled, splits.val


def test_all_recipes_are_tried():
    assert sorted(path.stem for path in recipe_folder().glob("rs_*.toml")) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_sets_are_those_that_the_recipe_says(name, resolved):
    known, (_, parts) = RECIPES[name], resolved(name)
    dataset, sets = parts.dataset, sets_of(parts.splits)
    units = [{item.group for item in items} for items in sets]
    assert all(group for groups in units for group in groups)
    assert tuple(map(len, units)) == known.sets
    assert sum(map(len, units)) == len(set().union(*units)), "what belongs together is in one set"
    assert tuple(map(len, sets)) == tuple(known.windows * count for count in known.sets)
    assert all(item.mask for item in (*parts.splits.labeled, *parts.splits.val))
    assert dataset.classes == known.classes and len(set(dataset.palette)) == len(known.classes)
    assert dataset.findings() == []


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_share_the_data_and_what_is_trained_on(name, method):
    plain, recipe = shipped(name), shipped(name, method)
    assert recipe.data == plain.data and recipe.train == plain.train and recipe.network == plain.network
    assert recipe.semi_supervised == (method != "supervised")


@pytest.mark.parametrize("name", RECIPES)
def test_every_class_and_what_counts_nowhere_is_read(name, resolved):
    _, parts = resolved(name)
    samples = [parts.dataset.read(item) for items in sets_of(parts.splits) for item in items if item.mask]
    found = {int(value) for sample in samples for value in np.unique(sample.mask)}
    ignores = name in ("rs_dubai", "rs_geotiff", "rs_loveda_1_8")
    assert found == {*range(len(RECIPES[name].classes))} | ({IGNORE} if ignores else set())


def test_colors_that_count_nowhere_are_those_of_two_rows(resolved):
    _, parts = resolved("rs_dubai")
    for item in (*parts.splits.labeled, *parts.splits.val):
        rows = parts.dataset.find(item)[1][0]
        nowhere = (parts.dataset.read(item).mask == IGNORE).all(axis=1)
        np.testing.assert_array_equal(nowhere, np.arange(rows.start, rows.stop) < 2)


def test_areas_are_the_official_ones(resolved):
    """The official ones, in numbers that the headers say."""
    for name, areas in (
        ("rs_potsdam_1_8", (scene_trees.POTSDAM_TRAIN, scene_trees.POTSDAM_VAL)),
        ("rs_vaihingen_1_8", (scene_trees.VAIHINGEN_TRAIN, scene_trees.VAIHINGEN_VAL)),
    ):
        splits = resolved(name)[1].splits
        train, val = ({str(area) for area in some} for some in areas)
        assert {item.group for item in splits.val} == val
        labeled = {item.group for item in splits.labeled}
        assert labeled | {item.group for item in splits.unlabeled} == train and not train & val
        assert f"{len(labeled)} of {len(train)} areas labeled" in text_of(name)
        assert f"{len(train)} for training, {len(val)} to validate on" in text_of(name)


def test_the_share_of_loveda_is_what_the_comment_says():
    text, data = text_of("rs_loveda_1_8"), shipped("rs_loveda_1_8").data
    images = int(re.search(r"([\d,]+) training images", text)[1].replace(",", ""))
    items = [Item(str(number), str(number)) for number in range(images)]
    drawn = draw_share(items, parse_share(data.labeled, "data.labeled"), data.draw_seed, "")
    assert len(drawn) == int(re.search(r"(\d+) images$", text, re.MULTILINE)[1])


def test_tiles_of_dubai_are_as_many_as_the_comments_say(resolved):
    sets = [{item.group for item in items} for items in sets_of(resolved("rs_dubai")[1].splits)]
    labeled, unlabeled, val = map(len, sets)
    text = text_of("rs_dubai")
    assert f"{labeled} of {labeled + unlabeled}\n" in text and f"{val} of the {sum(map(len, sets))} tiles" in text


def test_pairs_differ_in_their_share_of_labels_alone():
    tables = [shipped(f"rs_levir_cd_{share}").model_dump(mode="json") for share in (5, 10)]
    for share, table in zip((5, 10), tables, strict=True):
        assert f"LEVIR-CD, {share} % of the labels" in text_of(table["name"])
        assert float(table["data"].pop("labeled")) * 100 == share
        del table["name"]
    assert tables[0] == tables[1]


def test_both_dates_of_a_pair_are_scaled_alike(resolved):
    recipe, parts = resolved("rs_levir_cd_5")
    image = parts.dataset.read(parts.splits.val[0]).image
    assert image.shape[0] == 6 and 0 <= image.min() < image.max() <= 1 and (image[:3] != image[3:]).any()
    assert recipe.data.mean[:3] == recipe.data.mean[3:] == shipped("rs_loveda_1_8").data.channel_mean
    assert recipe.data.std[:3] == recipe.data.std[3:]


def test_bands_are_scaled_by_their_own_statistics(resolved):
    """Over the training scenes, whose pixels are in one window each, every band has mean 0 and deviation 1."""
    recipe, parts = resolved("rs_geotiff")
    assert (recipe.data.mean, recipe.data.std) == (0.0, 1.0)
    samples = [parts.dataset.read(item) for item in (*parts.splits.labeled, *parts.splits.unlabeled)]
    values = np.concatenate([sample.image[:, sample.valid] for sample in samples], axis=1).astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_crops_and_windows_are_as_the_comments_say(name):
    recipe = shipped(name)
    assert recipe.data.crop % recipe.network.options.get("output_stride", 14) == (name != MODERN)
    inference = inference_of(recipe.eval, (recipe.data.crop,) * 2)
    assert (recipe.eval.mode, inference.window, inference.blend) == ("sliding", (recipe.data.crop,) * 2, "gaussian")
    side = recipe.data.crop
    step = starts(5 * side, side, int(side * inference.stride))[1]
    assert step == pytest.approx(side * 3 / 4, abs=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_scenes_say_what_they_are(name, resolved):
    recipe, _ = resolved(name)
    assert (recipe.data.flip_axes, recipe.data.turns) == ([0, 1], [(0, 1)])  # all symmetries of the square
    assert recipe.eval.writer.name == "geotiff" and recipe.data.channels == CHANNELS.get(name, 3)


@pytest.mark.parametrize(("name", "kind"), [("rs_geotiff", "deeplabv3plus"), ("rs_levir_cd_5", "siamese")])
def test_the_network_is_built_as_shipped(name, kind):
    recipe, classes = shipped(name), len(RECIPES[name].classes)
    network, channels, dim = recipe.network, CHANNELS[name], recipe.stages.contrast.options["dim"]
    assert (network.name, network.pretrained) == (kind, True)
    model = build_network(network.name, network.options, channels, classes, dim, False).eval()
    with torch.no_grad():
        logits, embeddings = model(torch.rand(1, channels, 33, 33))
    assert logits.shape == (1, classes, 33, 33) and embeddings.shape == (1, dim, 9, 9)
    said = float(re.search(r"([\d.]+) M parameters", text_of("base/scenes"))[1])
    parameters = [p.numel() for key, p in model.named_parameters() if not key.startswith("embed.")]
    assert round(sum(parameters) / 1e6, 1) == said


def test_all_other_networks_are_the_one_of_the_base():
    others = [name for name in FAMILIES if name not in ("rs_levir_cd_5", MODERN)]
    assert len({shipped(name).network.model_dump_json() for name in others}) == 1


@pytest.mark.parametrize(("name", "method"), STEPPED)
def test_a_recipe_takes_steps(name, method, resolved):
    recipe, parts = resolved(name, method)
    losses, moved = steps_of(recipe, parts, 2)
    assert len(losses) == 2
    assert all(math.isfinite(value) for table in losses for value in table.values())
    assert all(table["supervised"] > 0 for table in losses)
    assert all(math.isfinite(distance) and distance > 0 for distance in moved)
    teaches = method not in ("supervised", "fixmatch")  # a network from scratch is not sure of anything
    assert not teaches or all(table["unsupervised"] > 0 for table in losses)
