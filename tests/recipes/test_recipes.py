"""The shipped recipes: each loads, resolves against its data set, builds its network and says what the paper says."""

import re
import shlex
import tomllib
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import trees

from farcluss.data import published
from farcluss.errors import RecipeError
from farcluss.inference.weights import build_network
from farcluss.learning.build import build_parts
from farcluss.recipes.reading import load_recipe, recipe_folder

FOLDER = recipe_folder()
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.toml"))
RECIPES = [name.removesuffix(".toml") for name in FILES if "/" not in name]
BASES = [name for name in FILES if name.startswith("base/")]
OVERLAYS = [Path(name).stem for name in FILES if name.startswith("methods/")]
MODERN = [name for name in RECIPES if "_dinov2" in name and not name.startswith("rs_")]
LISTED = [name for name in RECIPES if name.startswith(("voc_", "cityscapes_", "ade20k_"))]
PAPER = [name for name in LISTED if name not in MODERN]
FEW_CLASSES = {
    **{name: "cutmix" for name in RECIPES if name.startswith("medical_")},
    **{name: "none" for name in RECIPES if name.startswith("rs_levir")},
}
"""Recipes whose background covers nearly all pixels, and the mix that they have."""
OURS = [name for name in RECIPES if name != "quickstart"]
PICTURES = [
    name for name in OURS if not name.startswith(("medical_", "rs_")) and name not in MODERN
]  # which plugins' tests build
ONE_OF_EACH = ["voc_r50_92", "voc_blended321_r50_1_8", "cityscapes_r50_1_8", "camvid_1_8", "camvid_full", "quickstart",
               "ade20k_dinov2s_1_8"]  # fmt: skip
MAKERS = {
    "voc": trees.make_voc,
    "cityscapes": trees.make_cityscapes,
    "camvid": trees.make_camvid,
    "ade20k": trees.make_ade20k,
}
CLASSES = {"voc": 21, "cityscapes": 19, "camvid": 11, "ade20k": 150}
WITH = {"base/voc.toml", "base/voc_blended.toml", "base/cityscapes.toml"}  # which say what they change with a method
HEADS = {"r50": "resnet50s", "r101": "resnet101s"}


def family(name):
    return re.match(r"[a-z0-9]+(_blended)?", name)[0]


def text(name):
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def header(name):
    lines = text(name).splitlines()
    return lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]


def commands(name):
    """The commands in a header, each as a list of words."""
    lines = [line.removeprefix("#").strip() for line in header(name)]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("farcluss ", "accelerate "))]


def values(words, option):
    return [value for key, value in pairwise(words) if key == option]


def leaves(table, at=()):
    """Every plain value of a nested table, by key path."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key), value


@cache
def shipped(name):
    """A recipe as shipped, read once."""
    return load_recipe(name)


BUILT = {}
"""Networks by all that makes them: a ResNet-101 takes its time."""


def network_of(recipe, classes, dim, **changes):
    arguments = (recipe.network.name, recipe.network.options | changes, recipe.data.channel_count, classes, dim, False)
    if repr(arguments) not in BUILT:
        BUILT[repr(arguments)] = build_network(*arguments).eval()
    return BUILT[repr(arguments)]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A tiny tree of each data set."""
    return {kind: make(tmp_path_factory.mktemp("data") / kind) for kind, make in MAKERS.items()}


def on_disk(name, roots):
    """The recipe on a tiny tree, a share in place of a published list."""
    labeled = "all" if name == "camvid_full" else "1/2"
    settings = [f'data.root="{roots[name.split("_")[0]].as_posix()}"', f"data.labeled={labeled}"]
    return load_recipe(name, settings=[*settings, "network.pretrained=false"])


def test_no_recipe_is_forgotten_or_added_unseen():
    kinds = Counter(family(name) for name in RECIPES)
    assert kinds == {"voc": 20, "voc_blended": 12, "cityscapes": 16, "ade20k": 10, "camvid": 3, "medical": 9, "rs": 8,
                     "quickstart": 1}  # fmt: skip
    assert [Path(name).stem for name in BASES] == [
        "ade20k_dinov2", "camvid", "change_dinov2", "cityscapes", "cityscapes_dinov2", "scenes", "slices", "voc",
        "voc_blended", "voc_dinov2", "volumes",
    ]  # fmt: skip
    assert OVERLAYS == [
        "augseg", "classmix", "cutmix_seg", "cw_bass", "daw", "farcluss", "farcluss_plus", "fixmatch", "freematch",
        "imas", "mean_teacher", "softmatch", "supervised", "u2pl_loss", "unimatch", "unimatch_v2",
    ]  # fmt: skip
    assert len(FILES) == len(RECIPES) + len(BASES) + len(OVERLAYS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_by_path_and_by_name(name):
    recipe = load_recipe(FOLDER / f"{name}.toml")
    assert recipe == shipped(name)
    assert recipe.name == name


@pytest.mark.parametrize("file", BASES)
def test_a_base_is_no_recipe(file):
    table = tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))
    assert "extends" not in table
    assert "labeled" not in table["data"] and "root" not in table["data"]
    assert "farcluss run" not in (FOLDER / file).read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="no recipe file or shipped recipe"):
        load_recipe(Path(file).stem)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_method_goes_over_every_family(name, overlay):
    recipe, method = load_recipe(name, [overlay]), tomllib.loads((FOLDER / f"methods/{overlay}.toml").read_text())
    assert recipe.name == f"{name}-{overlay}"
    base = tomllib.loads(text(name)).get("extends")
    adapted = tomllib.loads((FOLDER / base).read_text())["with"].get(overlay, {}) if base in WITH else {}
    for kind, part in method["stages"].items():
        chosen = getattr(recipe.stages, kind)
        wanted = ({"name": part} if isinstance(part, str) else part) | adapted.get("stages", {}).get(kind, {})
        assert {"name": chosen.name, **chosen.options}.items() >= wanted.items()
    assert all(getattr(recipe.train, key) == value for key, value in adapted.get("train", {}).items())
    assert recipe.loss.unsupervised == method["loss"]["unsupervised"]
    assert recipe.semi_supervised == (overlay != "supervised")


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_holds_only_what_differs_from_its_base(name):
    table = tomllib.loads(text(name))
    base = dict(leaves(tomllib.loads((FOLDER / table.pop("extends")).read_text(encoding="utf-8"))))
    own = dict(leaves(table))
    replaced = [key[:-1] for key, value in own.items() if key[-1] == "name" and base.get(key, value) != value]
    kept = {key: value for key, value in base.items() if key[:-1] not in replaced}  # another plugin, other options
    assert not {key: value for key, value in own.items() if kept.get(key) == value}


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_launches_the_file_itself(name):
    first, lines = header(name)[0], commands(name)
    assert len(first) > 10 and not first.startswith("#  ")
    launch = next(words for words in lines if words[:5] == "accelerate launch -m farcluss run".split())
    assert launch[5] == f"recipes/{name}.toml"
    assert ("--set" in launch) == (name != "quickstart")
    if name != "quickstart":
        assert values(launch, "--set")[0].startswith("data.root=/data/")


@pytest.mark.parametrize("name", RECIPES)
def test_the_other_commands_of_the_header_are_valid(name):
    """At least one command shows an override; all are about this recipe and known lists."""
    others = [words for words in commands(name) if "run" in words and words[0] == "farcluss"]
    assert any("--with" in words or len(values(words, "--set")) > 1 for words in others)
    for words in others:
        recipe = load_recipe(words[2], values(words, "--with"), values(words, "--set"))
        assert recipe.name.split("-")[0] == name
        assert recipe.data.labeled in published.PUBLISHED or name not in LISTED
    fetched = [words[3] for words in commands(name) if words[:3] == ["farcluss", "lists", "get"]]
    assert fetched == [shipped(name).data.labeled] * (name in LISTED)


@pytest.mark.parametrize("file", [*BASES, *(f"{name}.toml" for name in OURS)])
def test_every_knob_has_a_comment(file):
    knobs = re.findall(r"^[a-z_.]+ +=.*$", (FOLDER / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert not [line for line in knobs if "  # " not in line and not line.startswith("extends")]


@pytest.mark.parametrize("name", LISTED)
def test_the_list_is_published_and_has_the_size_that_the_file_says(name):
    recipe = shipped(name)
    known = published.PUBLISHED[recipe.data.labeled]
    assert f"{known.labeled.size:,} labeled, {known.unlabeled.size:,} unlabeled" in text(name)
    kind, share = re.fullmatch(r"(.+?)_?(?:321|513)?_(?:r\d+|dinov2[sb])_(\w+)", name).groups()
    prefix = {
        "voc": "voc-classic",
        "voc_blended": "voc-blended-cps",
        "cityscapes": "cityscapes-cps",
        "ade20k": "ade20k",
    }
    assert known.name == f"{prefix[kind]}-{share}"


@pytest.mark.parametrize("name", OURS)
def test_the_readme_names_every_recipe(name):
    assert (FOLDER / "README.md").read_text(encoding="utf-8").count(f"| `{name}` |") == 1


@pytest.mark.parametrize("name", [*FEW_CLASSES])
@pytest.mark.parametrize("overlays", [[], ["farcluss"], ["farcluss_plus"]], ids=str)
def test_where_one_class_covers_nearly_all_nothing_is_rebalanced(name, overlays):
    recipe = load_recipe(name, overlays)
    assert recipe.stages.rebalance.name == "uniform" and recipe.stages.weight.name == "entropy"
    mixes = {"none": FEW_CLASSES[name], "farcluss": FEW_CLASSES[name], "farcluss_plus": "cutmix"}
    assert recipe.stages.mix.name == mixes[overlays[0] if overlays else "none"]


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("overlays", [[], ["farcluss"]], ids=str)
def test_the_method_is_that_of_the_paper(name, overlays):
    recipe = load_recipe(name, overlays)
    stages = {kind: (part.name, part.options) for kind, part in recipe.stages}
    assert stages == {
        "augment": ("photometric", {"jitter": [0.5, 0.5, 0.5, 0.25], "jitter_p": 0.8, "grey_p": 0.2, "blur": [0.1, 2.0],
                                    "blur_p": 0.5}),
        "mix": ("none", {}),
        "perturb": ("none", {}),
        "pseudo_label": ("fuzzy", {"top_k": 3}),
        "weight": ("entropy", {"form": "linear"}),
        "rebalance": ("median-frequency", {"max_weight": 10.0, "normalize": "mean"}),
        "contrast": ("prototype", {"dim": 128, "confidence": 0.95}),
    }  # fmt: skip
    loss, train, options = recipe.loss, recipe.train, recipe.network.options
    assert (loss.unsupervised, loss.contrastive, loss.warmup_steps, loss.ramp_steps) == (0.5, 0.1, 0, 0)
    assert (train.optimizer, train.momentum, train.weight_decay, train.schedule, train.power) == (
        "sgd", 0.9, 1e-4, "poly", 0.9)  # fmt: skip
    assert (train.batch, train.ema, train.steps, recipe.network.pretrained) == (8, 0.999, None, True)
    assert options["encoder"] == HEADS[re.search(r"r50|r101", name)[0]]
    assert (options["output_stride"], options["aspp_dilations"]) == (16, [6, 12, 18])


@pytest.mark.parametrize("name", PAPER)
def test_crop_schedule_and_scoring_are_those_of_the_table(name):
    recipe = shipped(name)
    data, train, scoring = recipe.data, recipe.train, recipe.eval
    if name.startswith("cityscapes"):
        assert (data.crop, train.epochs, train.lr, train.head_lr) == (801, 240, 0.005, 1)
        assert (recipe.loss.supervised, recipe.loss.ohem_threshold, recipe.loss.ohem_min_kept) == ("ohem", 0.7, 100_000)
        assert (scoring.mode, scoring.window, int(801 * scoring.stride)) == ("sliding", 801, 801 * 2 // 3)
    else:
        crop = re.search(r"blended(\d+)", name)
        assert data.crop == (int(crop[1]) if crop else 321)
        assert data.layout.options == {"variant": "blended" if crop else "classic"}
        assert (train.epochs, train.lr, train.head_lr) == (80, 0.001, 10)
        assert (recipe.loss.supervised, scoring.mode) == ("cross-entropy", "whole")


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_resolves_builds_and_predicts(name, roots):
    kind = name.split("_")[0]
    parts = build_parts(on_disk(name, roots))
    assert len(parts.dataset.classes) == len(set(parts.dataset.palette)) == CLASSES[kind]
    assert parts.recipe.semi_supervised == bool(parts.splits.unlabeled) == (name != "camvid_full")
    assert parts.dim == (128 if parts.recipe.semi_supervised else 0)
    # A ResNet-101 is built for VOC; elsewhere nothing but the classes is new.
    smaller = {"encoder": HEADS["r50"]} if "r101" in name and not name.startswith("voc_r101") else {}
    model = network_of(parts.recipe, len(parts.dataset.classes), parts.dim, **smaller)
    with torch.no_grad():
        logits, embeddings = model(torch.zeros(1, 3, 33, 33))
    assert logits.shape == (1, CLASSES[kind], 33, 33)
    assert (embeddings is None) if not parts.dim else embeddings.shape == (1, 128, 9, 9)


@pytest.mark.parametrize("name", MODERN)
def test_recipes_over_dinov2_are_those_of_its_authors_logs(name):
    """Network, optimizer, schedule, crops and scoring of UniMatch V2; its view is that of UniMatch."""
    recipe, kind = shipped(name), name.split("_")[0]
    network, train, data, scoring = recipe.network, recipe.train, recipe.data, recipe.eval
    encoder = {"s": "vit_small_patch14_dinov2", "b": "vit_base_patch14_dinov2"}[re.search(r"dinov2(.)", name)[1]]
    assert (network.name, network.options, network.pretrained) == ("dpt", {"encoder": encoder, "fit": "resize"}, True)
    assert (train.optimizer, train.betas, train.lr, train.head_lr, train.weight_decay, train.decay_norms) == (
        "adamw", (0.9, 0.999), 5e-6, 40.0, 0.01, True)  # fmt: skip
    assert (train.layer_decay, train.schedule, train.power, train.lr_warmup_steps, train.clip, train.ema) == (
        1.0, "poly", 0.9, 0, 0.0, 0.996)  # fmt: skip
    batch, epochs, crop = {"voc": (16, 60, 518), "cityscapes": (8, 180, 798), "ade20k": (8, 60, 518)}[kind]
    assert (train.batch, train.epochs, data.crop, data.crop % 14) == (batch, epochs, crop, 0)
    assert recipe.stages.augment == shipped("voc_r50_92").stages.augment
    if kind == "cityscapes":
        assert (scoring.mode, scoring.window, int(798 * scoring.stride)) == ("sliding", 798, 532)
        assert (recipe.loss.supervised, recipe.loss.ohem_min_kept) == ("ohem", 100_000)
    else:
        assert (scoring.mode, recipe.loss.supervised) == ("whole", "cross-entropy")
    assert load_recipe(name, ["unimatch_v2"]).stages.perturb.name == "complementary-dropout"


@pytest.mark.parametrize("name", ["voc_dinov2s_366", "cityscapes_dinov2s_1_8", "ade20k_dinov2s_1_8"])
def test_a_recipe_over_dinov2_resolves_builds_and_predicts(name, roots):
    parts, classes = build_parts(on_disk(name, roots)), CLASSES[name.split("_")[0]]
    assert len(parts.dataset.classes) == len(set(parts.dataset.palette)) == classes and parts.dim == 128
    network = network_of(parts.recipe, classes, 128)
    with torch.no_grad():
        logits, embeddings = network(torch.zeros(1, 3, 33, 33))
    assert logits.shape == (1, classes, 33, 33) and embeddings.shape == (1, 128, 8, 8)


@pytest.mark.parametrize(("name", "millions"), [("voc_r50_92", "40.476"), ("voc_r101_92", "59.468")])
def test_the_networks_have_the_published_size(name, millions):
    named = network_of(shipped(name), 21, 128).named_parameters()
    assert f"{sum(p.numel() for key, p in named if not key.startswith('embed.')) / 1e6:.3f}" == millions


@pytest.mark.parametrize(
    ("name", "labeled", "unlabeled", "val"),
    [
        ("voc_r50_92", 4, 10, 3),  # half of the 8 fine masks; the 6 coarse ones are no labels
        ("voc_blended321_r50_1_8", 7, 7, 3),  # half of all 14
        ("cityscapes_r50_1_8", 4, 4, 2),
        ("camvid_1_8", 4, 4, 2),
        ("camvid_full", 8, 0, 2),
    ],
)
def test_the_sets_of_each_family(name, labeled, unlabeled, val, roots):
    splits = build_parts(on_disk(name, roots)).splits
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.val)) == (labeled, unlabeled, val)


def test_camvid_reads_its_void_as_ignored_and_has_test_images(roots):
    dataset = build_parts(on_disk("camvid_1_8", roots)).dataset
    for split in ("train", "val", "test"):
        masks = [dataset.read(item).mask for item in dataset.items(split)]
        assert {int(value) for mask in masks for value in mask.flat} == {*range(11), 255}
