"""The shipped recipes of scans on drawn trees: they resolve as they say, build their networks, and take steps."""

import math
import re
from functools import cache
from typing import NamedTuple

import pytest
import recipe_trees
import torch
from stepping import steps_of

from farcluss import load_recipe
from farcluss.inference.card import inference_of
from farcluss.inference.probs import starts
from farcluss.inference.weights import build_network
from farcluss.learning.build import build_parts
from farcluss.recipes.reading import recipe_folder


class Known(NamedTuple):
    """What a recipe is to give on its tree: cases of its three sets, and classes."""

    tree: str
    labeled: int
    unlabeled: int
    val: int
    classes: tuple[str, ...]


TISSUES = ("background", "edema", "necrosis", "enhancing")
HEART = ("background", "right_ventricle", "myocardium", "left_ventricle")
RECIPES = {
    "medical_acdc_3": Known("acdc", 6, 134, 20, HEART),
    "medical_acdc_7": Known("acdc", 14, 126, 20, HEART),
    "medical_brats19_wt_10": Known("brats19", 25, 225, 25, ("background", "tumor")),
    "medical_brats19_wt_20": Known("brats19", 50, 200, 25, ("background", "tumor")),
    "medical_brats_regions": Known("brats", 1, 11, 1, ("background", "necrosis", "edema", "enhancing")),
    "medical_la_8": Known("left_atrium", 8, 72, 0, ("background", "atrium")),
    "medical_la_16": Known("left_atrium", 16, 64, 0, ("background", "atrium")),
    "medical_tumor2d": Known("decathlon", 8, 3, 2, TISSUES),
    "medical_tumor3d": Known("decathlon", 8, 3, 2, TISSUES),
}
CHANNELS = {"medical_brats_regions": 4}
"""Of an image where it is not one, as its files and no recipe say."""
SLICES = {"medical_acdc_3": 60, "medical_acdc_7": 140}
"""Labeled slices: of the ten of each volume."""
METHODS = ("supervised", "mean_teacher", "fixmatch", "farcluss_plus")
FAMILIES = [name for name in RECIPES if name not in ("medical_acdc_7", "medical_brats19_wt_20", "medical_la_16")]
"""One of each pair of recipes that differ in nothing but the number of labeled cases."""
STEPPED = [(name, None) for name in FAMILIES]
STEPPED += [pytest.param(name, method, marks=pytest.mark.slow) for name in FAMILIES for method in METHODS[:2]]
STEPPED += [("medical_tumor3d", method) for method in METHODS[2:]]
STEPPED += [pytest.param("medical_acdc_3", method, marks=pytest.mark.slow) for method in METHODS[2:]]
PARAMETERS = {"medical_tumor2d": 26.8}
"""Millions that a comment speaks of."""


@cache
def shipped(name):
    """A recipe as shipped, read once."""
    return load_recipe(name)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Trees by name, drawn when they are first asked for."""
    folder, drawn = tmp_path_factory.mktemp("trees"), {}

    def root(tree):
        if tree not in drawn:
            drawn[tree] = getattr(recipe_trees, f"make_{tree}")(folder / tree)
        return drawn[tree]

    return root


def settings(name, root, cache):
    """The recipe's own tree, a cache beside it, and crops and networks of no size."""
    given = [f"data.root={root}", f"data.layout.cache={cache}", "data.workers=0", "train.batch=2"]
    if shipped(name).network.name == "monai":
        small = ["network.architecture=BasicUNet", "network.arguments.features=[4, 4, 8, 8, 8, 4]"]
    else:
        small = ["network.encoder=test_resnet", "network.aspp_channels=8", "network.head_channels=8"]
    axes = len(shipped(name).data.crop)
    return [*given, *small, f"data.crop={[24, 24, 16][:axes]}"]


@pytest.fixture(scope="module")
def resolved(roots, tmp_path_factory):
    """Recipe and parts by name and method, and their cache, which the methods of a recipe share."""
    known, caches = {}, tmp_path_factory.mktemp("caches")

    def resolve(name, method=None):
        if (name, method) not in known:
            root, cache = roots(RECIPES[name].tree), caches / name
            recipe = load_recipe(name, [method] if method else [], settings(name, root, cache))
            parts = build_parts(recipe)
            known[name, method] = parts.recipe, parts, cache
        return known[name, method]

    return resolve


def cases_of(parts, items):
    return {parts.dataset.find(item)[0].id for item in items}


def test_all_recipes_are_tried():
    assert sorted(path.stem for path in recipe_folder().glob("medical_*.toml")) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_share_the_data(name, method):
    assert load_recipe(name, [method]).data == shipped(name).data


@pytest.mark.parametrize("name", RECIPES)
def test_the_sets_are_those_that_the_recipe_says(name, resolved):
    known, (_, parts, _) = RECIPES[name], resolved(name)
    splits, dataset = parts.splits, parts.dataset
    sets = [cases_of(parts, items) for items in (splits.labeled, splits.unlabeled, splits.val)]
    assert tuple(map(len, sets)) == (known.labeled, known.unlabeled, known.val)
    assert len(set().union(*sets)) == sum(map(len, sets))
    patients = [{item.group for item in items} for items in (splits.labeled, splits.unlabeled, splits.val)]
    assert all(group for groups in patients for group in groups)
    assert sum(map(len, patients)) == len(set().union(*patients))
    assert dataset.classes == known.classes and dataset.findings() == []
    assert len(set(dataset.palette)) == len(dataset.palette) == len(known.classes)
    data = parts.recipe.data
    assert (data.channels, data.mean, data.std) == (CHANNELS.get(name, 1), 0.0, 1.0)
    assert data.flip_axes == list(range(len(data.crop))) and parts.recipe.eval.writer.name == "nifti"
    assert len(splits.labeled) == SLICES.get(name, len(splits.labeled))


@pytest.mark.parametrize("name", ["medical_acdc_3", "medical_brats19_wt_10", "medical_la_8"])
def test_the_first_lines_are_labeled_and_no_other_label_is_known(name, resolved, roots):
    _, parts, _ = resolved(name)
    lines = next(roots(RECIPES[name].tree).glob("train.*")).read_text().split()
    assert cases_of(parts, parts.splits.labeled) == set(lines[: RECIPES[name].labeled])
    assert {item.mask for item in parts.splits.unlabeled} == {None}
    assert all(parts.dataset.read(item).mask is None for item in parts.splits.unlabeled[::20])


@pytest.mark.parametrize("name", ["medical_brats_regions", "medical_tumor3d"])
def test_cases_without_a_label_are_unlabeled(name, resolved):
    _, parts, _ = resolved(name)
    bare = {item.id for item in parts.splits.unlabeled if item.mask is None}
    drawn = {"decathlon": {"case_010", "case_011", "case_012"}, "brats": set(recipe_trees.BRATS_UNLABELED)}
    assert bare == drawn[RECIPES[name].tree]


@pytest.mark.parametrize("pair", [("acdc_3", "acdc_7"), ("brats19_wt_10", "brats19_wt_20"), ("la_8", "la_16")])
def test_protocols_differ_in_their_labeled_cases_alone(pair):
    tables = [load_recipe(f"medical_{name}").model_dump(mode="json") for name in pair]
    for table in tables:
        del table["name"], table["data"]["layout"]["labeled_first"]
    assert tables[0] == tables[1]


def test_slices_are_cut_across_the_thick_axis(resolved):
    for name in ("medical_acdc_3", "medical_tumor2d"):
        _, parts, _ = resolved(name)
        assert parts.dataset.slice_axis == {"medical_acdc_3": 0, "medical_tumor2d": 2}[name]
        assert {len(parts.dataset.size(item)) for item in parts.splits.labeled} == {2}


@pytest.mark.parametrize("name", ["medical_brats19_wt_10", "medical_la_8"])
def test_windows_step_as_the_comment_says(name):
    recipe = load_recipe(name)
    text = (recipe_folder() / f"{name}.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("stride"))
    said = [int(number) for number in re.findall(r"of (\d+)", line)]
    sides, inference = tuple(recipe.data.crop), inference_of(recipe.eval, tuple(recipe.data.crop))
    assert inference.window == sides and inference.blend == "mean"
    steps = [starts(3 * side, side, int(side * inference.stride))[1] for side in sides]
    assert sorted(set(steps)) == sorted(said)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_is_built_as_shipped(name):
    recipe, classes, channels = load_recipe(name), len(RECIPES[name].classes), CHANNELS.get(name, 1)
    network, axes = recipe.network, len(recipe.data.crop)
    model = build_network(network.name, network.options, channels, classes, 64, network.pretrained).eval()
    with torch.no_grad():
        logits, embeddings = model(torch.zeros(1, channels, *[32] * axes))
    assert logits.shape == (1, classes, *[32] * axes)
    assert embeddings.shape == (1, 64, *[8] * axes)
    assert all(side % 16 == 0 for side in recipe.data.crop)
    if name in PARAMETERS:
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "method"), STEPPED)
def test_a_recipe_takes_steps(name, method, resolved):
    recipe, parts, cache = resolved(name, method)
    losses, moved = steps_of(recipe, parts, 2)
    assert len(losses) == 2
    assert all(math.isfinite(value) for table in losses for value in table.values())
    assert all(table["supervised"] > 0 for table in losses)
    assert all(math.isfinite(distance) and distance > 0 for distance in moved)
    teaches = method not in ("supervised", "fixmatch")  # a network from scratch is not sure of anything
    assert not teaches or all(table["unsupervised"] > 0 for table in losses)
    if recipe.data.labeled == "all":  # of a share, the truth of other cases is known, for diagnostics
        read = {path.name.rpartition("-")[0] for path in cache.glob("*.mask.npy")}
        assert read and read <= cases_of(parts, parts.splits.labeled)
