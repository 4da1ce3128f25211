"""`farcluss init`: folders as people have them become recipes that `farcluss check` passes as they stand."""

import json
import re
import tomllib
from itertools import pairwise

import numpy as np
import pytest
from commandline import cli
from exports import DRAWN, SIZE, photo
from PIL import Image

from farcluss.data.proposals import Proposal
from farcluss.jobs.arrangement import find_pairs, options
from farcluss.jobs.starting import Machine, groups, plan
from farcluss.learning.build import build_dataset
from farcluss.recipes.reading import load_recipe

SMALL = ("--set", "network.encoder=test_resnet", "--set", "network.pretrained=false", "--set", "data.workers=0")


def begun(source, folder, *more):
    """The recipe that `init` writes, checked by `check`, and what it printed."""
    found = cli("init", source, "-o", folder, "--yes", *SMALL, *more)
    assert found.code == 0, found
    path = folder / f"{source.name}.toml"
    checked = cli("check", path, "--no-step")
    assert checked.code == 0, checked
    assert 2 <= len(found.out.strip().splitlines()) <= 12
    return load_recipe(path), found.out


def mask(path, values, mode="L", palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8), mode)
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def values(seed=0, found=(0, 1, 2)):
    """A mask with all of these values, in patches."""
    patches = np.random.default_rng(seed).choice(found, (6, 8))
    patches[0, : len(found)] = found
    return np.kron(patches, np.ones((8, 8), int))


ARRANGEMENTS = {
    "beside, by suffix": ("{n}.jpg", "{n}_mask.png"),
    "beside, as bitmaps": ("{n}.jpg", "{n}.bmp"),
    "beside, by ending": ("{n}.jpg", "{n}.png"),
    "mirrored": ("images/{n}.jpg", "masks/{n}.png"),
    "mirrored, deeper": ("images/day/{n}.png", "labels/day/{n}.png"),
    "suffix, own folder": ("img/{n}.jpg", "gt/{n}_gt.png"),
    "images at the top": ("{n}.jpg", "annotations/{n}.png"),
    "by tile": ("Tile {t}/images/{n}.jpg", "Tile {t}/masks/{n}.png"),
    "both with endings": ("imgs/{n}_img.jpg", "gts/{n}_gt.png"),
    "long endings": ("x/{n}.png", "y/{n}_instance_color_RGB.png"),
    "names that say nothing": ("b/{n}.png", "a/{n}.png"),
    "several levels": ("images/10k/{n}.jpg", "labels/sem_seg/masks/{n}.png"),
}


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_arrangements_of_images_and_masks(kind, tmp_path):
    """Every image is found, and the masks of exactly those that have one; classes and values are those drawn."""
    image, label = ARRANGEMENTS[kind]
    source = tmp_path / "photos"
    for number in range(5):
        names = {"n": f"p{number}", "t": number % 2}
        photo(source / image.format(**names))
        if number < 3:
            mask(source / label.format(**names), values(number))
    recipe, _ = begun(source, tmp_path)
    dataset = build_dataset(recipe.data)
    items = {item.image: item for item in dataset.items("train")}
    assert {*items} == {str(source / image.format(n=f"p{k}", t=k % 2)) for k in range(5)}
    for number in range(5):
        item = items[str(source / image.format(n=f"p{number}", t=number % 2))]
        found = dataset.read(item).mask
        assert (found is None) == (number > 2)
        if found is not None:
            np.testing.assert_array_equal(found, values(number))
    assert recipe.data.val == "1/5" and recipe.data.labeled == "all"


def test_splits_are_told_by_folders(tmp_path):
    source = tmp_path / "photos"
    for split in ("train", "valid", "test"):
        for number in range(3):
            photo(source / split / "images" / f"{split}{number}.jpg")
            mask(source / split / "masks" / f"{split}{number}.png", values(number))
    recipe, told = begun(source, tmp_path)
    dataset = build_dataset(recipe.data)
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert {item.image.split("/")[-3] for item in dataset.items(split)} == {folder}
        assert all(item.mask for item in dataset.items(split))
    assert recipe.data.val == "val" and recipe.data.labeled == "1/4" and "all images have a mask" in told


@pytest.mark.parametrize(
    ("found", "names", "classes"),
    [
        ((0, 1, 2), None, ["background", "class 1", "class 2"]),
        ((0, 255), None, {"background": 0, "object": 255}),
        ((0, 1, 255), None, ["background", "class 1"]),
        ((3, 7), None, {"class 3": 3, "class 7": 7}),
        ((0, 1, 2), "sky\nroad\ncar\n", ["sky", "road", "car"]),
        ((0, 2), "_background_\ncat\ndog\nbird\n", ["background", "cat", "dog", "bird"]),
    ],
)
def test_values_of_masks_and_their_names(found, names, classes, tmp_path):
    source = tmp_path / "photos"
    for number in range(4):
        photo(source / "images" / f"{number}.jpg")
        drawn = values(number, found)
        drawn[:, 8 * len(found) :] = found[0]  # most of it
        mask(source / "masks" / f"{number}.png", drawn)
    if names:
        (source / "class_names.txt").write_text(names)
    recipe, _ = begun(source, tmp_path)
    assert recipe.data.classes == classes


def test_colors_count_where_palettes_differ(tmp_path):
    source, colors = tmp_path / "photos", [(0, 0, 0), (250, 10, 20), (12, 200, 30)]
    for number in range(4):
        photo(source / "images" / f"{number}.jpg")
        order = np.roll(np.arange(3), number)  # index `order[k]` has the color k
        palette = np.zeros((3, 3), int)
        palette[order] = colors
        mask(source / "masks" / f"{number}.png", order[values(number)], "P", palette.ravel().tolist())
    recipe, told = begun(source, tmp_path)
    assert "different palettes" in told
    assert sorted(recipe.data.classes.values()) == ["#000000", "#0cc81e", "#fa0a14"]
    dataset = build_dataset(recipe.data)
    wanted = [next(i for i, name in enumerate(dataset.classes) if dataset.palette[i] == color) for color in colors]
    for item in dataset.items("train"):
        number = int(item.id.rpartition("/")[2])
        np.testing.assert_array_equal(dataset.read(item).mask, np.array(wanted)[values(number)])


@pytest.mark.parametrize("name", DRAWN)
def test_exports_become_recipes(name, tmp_path):
    source = tmp_path / "export"
    source.mkdir()
    DRAWN[name](source)
    recipe, told = begun(source, tmp_path)
    assert recipe.data.layout.name == name and recipe.data.classes == ["background", "apple", "leaf"]
    assert "2 with a mask, 1 without" in told and "unlabeled, not as empty" in told


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda source: None, "no images"),
        (lambda source: photo(source / "a.jpg"), "None of the 1 image .* has a mask"),
        (lambda source: [photo(source / "a.jpg"), mask(source / "a.png", 0 * values())], "one value alone"),
        (
            lambda source: [photo(source / "test/i/a.jpg"), mask(source / "test/m/a.png", values())],
            "not of val or test",
        ),
        (lambda source: [photo(source / "a.jpg"), mask(source / "a.png", values())], "a single image"),
        (lambda source: [photo(source / "images" / "a.png"), photo(source / "masks" / "a.png")], "no masks, or were"),
    ],
)
def test_refusals(write, text, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    write(source)
    assert re.search(text, cli("init", source, "-o", tmp_path, "--yes").refusal)
    assert [*tmp_path.glob("*.toml")] == []


def test_a_recipe_is_not_replaced(tmp_path):
    source = tmp_path / "photos"
    photo(source / "a.jpg")
    photo(source / "b.jpg")
    mask(source / "a.png", values())
    (tmp_path / "photos.toml").write_text("mine")
    assert "exists already" in cli("init", source, "-o", tmp_path, "--yes").refusal
    assert (tmp_path / "photos.toml").read_text() == "mine"


def test_every_line_has_a_comment_and_settings_are_kept(tmp_path):
    source = tmp_path / "photos"
    for number in range(3):
        photo(source / f"{number}.jpg")
        mask(source / f"{number}.png", values(number))
    begun(source, tmp_path, "--set", "train.steps=77", "--set", "data.layout.group=(.*)[0-9]")
    lines = (tmp_path / "photos.toml").read_text().splitlines()
    keys = [(above, line) for above, line in pairwise(lines) if re.match(r"\w+ +=", line)]
    bare = [line for above, line in keys if "  # " not in line and not above.startswith("# ")]
    assert bare == [line for line in bare if line.startswith("root")]
    table = tomllib.loads("\n".join(lines))
    assert table["train"]["steps"] == 77 and table["data"]["layout"]["group"] == "(.*)[0-9]"


def proposal(labeled=20, size=(480, 640)):
    return Proposal("images", {"crop": [96, 96, 96]}, labeled, 100, size)


@pytest.mark.parametrize("size", [(20, 30), (64, 64), (480, 640), (3000, 4000), (35, 51, 35)])
@pytest.mark.parametrize("machine", [Machine(16, False), Machine(6, True), Machine(80, True)], ids=str)
def test_sizes_that_suit(size, machine):
    found = plan(proposal(size=size), machine, {})
    if len(size) == 2:
        assert found.crop % 16 == 1 and (found.crop <= min(size) or found.crop == 33)
        assert found.crop <= (161 if not machine.gpu else 321 if machine.gib < 16 else 513)
    assert found.warmup * 2 < found.steps and 1 / (1 - found.ema) * 2 <= found.steps


@pytest.mark.parametrize(("share", "name"), [(0.95, "uniform"), (0.6, "median-frequency")])
def test_nothing_is_rebalanced_where_one_class_covers_nearly_all(share, name, tmp_path):
    source = tmp_path / "photos"
    for number in range(4):
        photo(source / "images" / f"{number}.jpg")
        drawn = np.zeros(SIZE, int)
        drawn.flat[: round((1 - share) * drawn.size)] = 1
        mask(source / "masks" / f"{number}.png", drawn)
    recipe, told = begun(source, tmp_path)
    assert recipe.stages.rebalance.name == name
    assert ("no rebalancing" in told) == (recipe.stages.mix.name == "cutmix") == (name == "uniform")


def test_what_is_set_is_followed_by_the_rest(tmp_path):
    given = {"train": {"steps": 1000, "batch": 3}, "network": {"encoder": "x"}, "data": {"crop": 65}}
    found = plan(proposal(), Machine(16, False), given)
    assert (found.steps, found.batch, found.encoder, found.crop, found.warmup) == (1000, 3, "x", 65, 200)


def test_a_setting_that_no_recipe_has_leaves_none_behind(tmp_path):
    source = tmp_path / "photos"
    photo(source / "a.jpg")
    photo(source / "b.jpg")
    mask(source / "a.png", values())
    assert "train.stepps" in cli("init", source, "-o", tmp_path, "--set", "train.stepps=3").refusal
    assert [*tmp_path.glob("*.toml")] == []


def test_more_labels_more_steps():
    steps = [plan(proposal(labeled=number), Machine(16, True), {}).steps for number in (1, 10, 100, 1000, 10000)]
    assert steps == sorted(steps) and steps[-1] == 20000


def test_groups_are_offered_not_assumed(tmp_path):
    assert groups(f"plant{plant}_{view}" for plant in range(4) for view in range(3)) is not None
    assert groups(f"photo_{number:04d}" for number in range(9)) is None
    assert groups("abcdefg") is None


def test_a_group_is_divided_by_no_share(tmp_path):
    source = tmp_path / "photos"
    for plant in range(4):
        for view in range(3):
            photo(source / "images" / f"plant{plant}_{view}.jpg")
            mask(source / "masks" / f"plant{plant}_{view}.png", values(view))
    recipe, told = begun(source, tmp_path, "--set", "data.layout.group=(.*[^0-9])[0-9]+$")
    assert "names look like groups" in told
    dataset = build_dataset(recipe.data)
    assert {item.group for item in dataset.items("train")} == {f"images/plant{plant}_" for plant in range(4)}


def test_unusable_patterns_of_groups_are_refused(tmp_path):
    source = tmp_path / "photos"
    photo(source / "a.jpg")
    photo(source / "b.jpg")
    mask(source / "a.png", values())
    for pattern, text in (("(", "no regular expression"), ("a.*", "no part in brackets")):
        cli("init", source, "-o", tmp_path, "--yes", *SMALL)
        assert (
            text in cli("check", tmp_path / "photos.toml", "--set", f"data.layout.group={json.dumps(pattern)}").refusal
        )


def test_a_rule_that_no_option_can_tell_becomes_lists():
    files = [f"{folder}/img/{n}.jpg" for folder in ("a", "b/c") for n in range(2)]
    files += [f"{folder}/gt/{n}.png" for folder in ("a", "b/c") for n in range(2)]
    pairs = find_pairs(files)
    assert len(pairs.masks) == 4 and options(pairs) is None


def test_unlabeled_images_in_a_folder_of_their_own(tmp_path):
    source = tmp_path / "photos"
    for number in range(3):
        photo(source / "images" / f"{number}.jpg")
        mask(source / "masks" / f"{number}.png", values(number))
        photo(source / "unlabeled" / f"u{number}.jpg")
    photo(source / "previews" / "p.jpg")
    recipe, told = begun(source, tmp_path)
    names = {item.image.rpartition("/")[2] for item in build_dataset(recipe.data).items("train")}
    assert names == {*(f"{n}.jpg" for n in range(3)), *(f"u{n}.jpg" for n in range(3))}
    assert "3 with a mask, 3 without" in told and "1 image in other folders" in told


def test_what_no_pattern_tells_is_written_as_lists(tmp_path):
    """Masks as bitmaps beside their photos, and a validation image that nobody has labeled."""
    source = tmp_path / "photos"
    for number in range(4):
        photo(source / "train" / "images" / f"{number}.jpg")
        mask(source / "train" / "masks" / f"{number}.bmp", values(number))
        photo(source / "val" / "images" / f"v{number}.jpg")
        if number:
            mask(source / "val" / "masks" / f"v{number}.bmp", values(number))
    recipe, _ = begun(source, tmp_path)
    dataset = build_dataset(recipe.data)
    assert [item.id.rpartition("/")[2] for item in dataset.items("val")] == ["v1", "v2", "v3"]
    assert all(item.mask for item in (*dataset.items("train"), *dataset.items("val")))
    assert recipe.data.layout.options["val_images"] == str(tmp_path / "val.txt")


def test_masks_are_never_images():
    images = [f"images/{n}.jpg" for n in range(4)]
    pairs = find_pairs([*images, "masks/0.png", "masks/1.png", "masks/lost.png"])
    assert sorted(pairs.images) == images and pairs.masks == {f"images/{n}.jpg": f"masks/{n}.png" for n in range(2)}
