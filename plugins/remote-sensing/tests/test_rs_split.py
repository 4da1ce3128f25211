"""Dividing scenes and blocks: what must hold of the lists, whatever is drawn."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from commandline import cli
from drawn_scenes import Drawing, draw_label, draw_scene, draw_tree, write
from registered import registered
from scene_recipes import write_recipe

from farcluss.data.splits import resolve
from farcluss.learning.build import build_dataset
from farcluss.recipes.reading import load_recipe
from farcluss_remote_sensing.boxes import bounds_of, overlaps, trim
from farcluss_remote_sensing.options import with_scene_options
from farcluss_remote_sensing.scenes import Index, Scene

LINE = re.compile(r"(.+)\[(\d+):(\d+),(\d+):(\d+)\]")
SMALL = Drawing(size=(20, 17), bands=5, dtype="uint8")


def split(recipe, *words, out="splits"):
    """Lines by list, and what was printed."""
    folder = recipe.parent / out
    result = cli("rs", "split", recipe, "-o", folder, *words)
    assert (result.code, result.err) == (0, ""), result
    lists = {path.stem: path.read_text().splitlines() for path in folder.glob("*.txt")}
    return {name: lists.get(name, []) for name in ("labeled", "unlabeled", "val", "test")}, result.out


def boxes(lines):
    """`(scene, row, end, column, end)` of lines that name boxes."""
    return [(m[1], *map(int, m.groups()[1:])) for m in map(LINE.fullmatch, lines) if m]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """24 labeled and 6 unlabeled small scenes."""
    return write_recipe(draw_tree(tmp_path_factory.mktemp("many"), SMALL, 24, 6), ', scaling = "zscore"', val="none")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two labeled scenes with invalid pixels, one unlabeled."""
    drawing = Drawing(size=(170, 211), nodata=0, collar=40)
    return write_recipe(draw_tree(tmp_path_factory.mktemp("large"), drawing, 2, 1), ", window = 32", val="none")


class TestScenes:
    @pytest.mark.parametrize("seed", range(5))
    def test_sets_share_nothing_and_lack_nothing(self, many, seed):
        sets, _ = split(many, "--val", 0.25, "--test", 0.125, "--labeled", 0.2, "--seed", seed)
        assert {name: len(lines) for name, lines in sets.items()} == {
            "val": 6, "test": 3, "labeled": 3, "unlabeled": 12 + 6,
        }  # fmt: skip
        assert sorted(line for lines in sets.values() for line in lines) == sorted(f"s{number}" for number in range(30))
        assert {f"s{number}" for number in range(24, 30)} <= set(sets["unlabeled"])

    def test_a_seed_gives_its_lists(self, many):
        first, again, other = (split(many, "--seed", seed, out=f"splits{n}")[0] for n, seed in enumerate((3, 3, 4)))
        assert first == again and first != other

    def test_held_out_scenes_do_not_depend_on_the_labeled_share(self, many):
        few, _ = split(many, "--labeled", 0.1)
        more, _ = split(many, "--labeled", 0.5)
        assert few["val"] == more["val"] and set(few["labeled"]) < set(more["labeled"])

    def test_the_recipe_takes_the_lists_that_are_printed(self, many):
        _, text = split(many, out="printed")
        settings = re.findall(r"--set (data\.\S+)", text)
        assert [setting.partition("=")[0] for setting in settings] == ["data.labeled", "data.unlabeled", "data.val"]
        data = load_recipe(str(many), (), (*settings, "data.layout.scaling=scale")).data
        splits = resolve(build_dataset(data), data)
        assert (len(splits.labeled), len(splits.unlabeled), len(splits.val)) == (2, 17 + 6, 5)

    def test_all_labels_and_nothing_held_out(self, tmp_path):
        recipe = write_recipe(draw_tree(tmp_path, SMALL, 3, 0))
        sets, text = split(recipe, "--val", 0, "--labeled", 1)
        assert sets == {"labeled": ["s0", "s1", "s2"], "unlabeled": [], "val": [], "test": []}
        assert "data.unlabeled=none" in text and "data.val" not in text

    @pytest.mark.parametrize("seed", range(6))
    def test_a_rare_class_is_labeled(self, tmp_path, seed):
        """The fourth class is in one scene alone, the third in another, wherever they fall."""
        root = draw_tree(tmp_path, SMALL, 12, 0)
        for number in range(12):
            with rasterio.open(root / "labels" / f"s{number}.tif", "r+") as file:
                label = np.minimum(file.read(1), 2)
                label[0, 0] = {5: 3, 7: 4}.get(number, 1)
                file.write(label, 1)
        sets, _ = split(write_recipe(root), "--val", 0.5, "--labeled", 0.34, "--seed", seed)
        assert {"s5", "s7"} <= set(sets["labeled"]) and len(sets["labeled"]) == 2 and len(sets["val"]) == 6


@pytest.fixture
def grouped(tmp_path):
    """Scenes in a table with groups of two; the last group has a scene without a label."""

    @with_scene_options
    def tabled(data) -> Index:
        """Scenes of a table."""
        rows = csv.reader(Path(data.root, "scenes.csv").read_text().splitlines())
        return Index(
            {
                "train": [
                    Scene(n, (str(data.root / i),), str(data.root / lab) if lab else None, g) for n, i, lab, g in rows
                ]
            }
        )

    root = draw_tree(tmp_path, SMALL, 7, 1)
    lines = [f"s{n},images/s{n}.tif,{f'labels/s{n}.tif' if n < 7 else ''},place{n // 2}" for n in range(8)]
    (root / "scenes.csv").write_text("\n".join(lines))
    recipe = write_recipe(root)
    recipe.write_text(recipe.read_text().replace('"rasters"', '"tabled"'))
    with registered("dataset", "tabled", tabled):
        yield recipe


class TestGroups:
    @pytest.mark.parametrize("seed", range(6))
    def test_they_are_not_divided(self, grouped, seed):
        sets, text = split(grouped, "--val", 0.5, "--labeled", 0.5, "--seed", seed, out=f"splits{seed}")
        places = {name: {int(line[1:]) // 2 for line in lines} for name, lines in sets.items()}
        assert not places["val"] & (places["labeled"] | places["unlabeled"])
        assert len(places["val"]) == 2 and len(places["labeled"]) == 1
        shut = 3 in places["val"]  # its unlabeled scene shows what is validated on
        assert ("s7" in sets["unlabeled"]) != shut and ("first s7" in text) == shut

    def test_blocks_would_divide_them(self, grouped):
        refusal = cli("rs", "split", grouped, "--by", "block").refusal
        assert "group place0" in refusal and "--by scene" in refusal


class TestBlocks:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize(("side", "buffer"), [(40, 0), (40, 7), (64, 20), (32, 12)])
    def test_what_must_hold(self, large, side, buffer, seed):
        words = ("--by", "block", "--block-size", side, "--buffer", buffer, "--seed", seed)
        sets, text = split(large, *words, "--val", 0.2, "--test", 0.1, "--labeled", 0.3, out=f"{side}-{buffer}-{seed}")
        assert [line for line in sets["unlabeled"] if "[" not in line] == ["s2"]
        seen = {name: np.zeros((170, 211), int) for name in ("s0", "s1")}
        for lines in sets.values():
            for scene, *(a, b, c, d) in boxes(lines):
                assert 0 < b - a <= side and 0 < d - c <= side
                seen[scene][a:b, c:d] += 1
        assert max(count.max() for count in seen.values()) == 1
        training, held = boxes(sets["labeled"] + sets["unlabeled"]), boxes(sets["val"] + sets["test"])
        for scene, a, b, c, d in training:
            for other, e, f, g, h in held:
                # Pixels between the two boxes, along the axis on which they are farther apart.
                assert other != scene or max(e - b, a - f, g - d, c - h) >= buffer
        lost = sum(int((count == 0).sum()) for count in seen.values()) / (2 * 170 * 211)
        assert (lost == 0) == (buffer == 0)
        if "Left out" not in text and buffer:
            assert f"costs {100 * lost:.1f} %" in text

    def test_shares_are_of_blocks_with_a_label(self, large):
        sets, _ = split(large, "--by", "block", "--block-size", 22, "--buffer", 0, "--labeled", 0.25, out="shares")
        # 8 x 10 blocks of each of two scenes; those in the collar, but for two columns, hold no label.
        blocks = {name: boxes(lines) for name, lines in sets.items()}
        blank = [box for box in blocks["unlabeled"] if box[4] <= 42]
        assert sum(map(len, blocks.values())) == 160 and len(blank) == 2 * 16
        assert not any(box[4] <= 42 for name in ("labeled", "val") for box in blocks[name])
        assert len(blocks["val"]) == round(0.2 * 128) and len(blocks["labeled"]) == round(0.25 * 102)

    def test_slivers_are_left_out(self, large):
        sets, text = split(large, "--by", "block", "--block-size", 32, "--buffer", 30, "--val", 0.1, out="slivers")
        assert "too little is left of them" in text
        for _, a, b, c, d in boxes(sets["labeled"] + sets["unlabeled"]):
            assert min(b - a, d - c) >= 7

    def test_a_seed_gives_its_lists(self, large):
        words = ("--by", "block", "--block-size", 50, "--buffer", 9)
        first, again, other = (split(large, *words, "--seed", n, out=f"seed{k}")[0] for k, n in enumerate((1, 1, 2)))
        assert first == again and first != other

    def test_no_training_pixel_is_held_out(self, large):
        _, text = split(large, "--by", "block", "--block-size", 50, "--buffer", 9, out="resolved")
        settings = re.findall(r"--set (data\.\S+)", text)[:3]
        data = load_recipe(str(large), (), (*settings, "data.layout.scaling=scale", "data.layout.min_valid=0")).data
        dataset = build_dataset(data)
        splits = resolve(dataset, data)
        held = [dataset.find(item) for item in splits.val]
        for item in splits.labeled + splits.unlabeled:
            scene, box = dataset.find(item)
            assert not overlaps(box, bounds_of(other for place, other in held if place.id == scene.id)).any()


@pytest.mark.parametrize("seed", range(30))
def test_a_trimmed_box_touches_nothing(seed):
    rng = np.random.default_rng(seed)
    ends = rng.integers(-5, 25, (5, 2))
    others = np.stack([ends[:, 0], ends[:, 0] + 6, ends[:, 1], ends[:, 1] + 6], axis=1)
    box = slice(0, 20), slice(0, 25)
    free = np.ones((20, 25), bool)
    for a, b, c, d in others.clip(0):
        free[a:b, c:d] = False
    left = trim(box, others)
    assert (left == box) == free.all()
    if left is not None:
        assert free[left].all() and free[left].size > 0
    one = trim(box, others[:1])
    a, b, c, d = others[0].tolist()
    sides = [max(a, 0) * 25, max(20 - b, 0) * 25, max(c, 0) * 20, max(25 - d, 0) * 20]
    assert sum((part.stop - part.start) for part in one[:1]) * (one[1].stop - one[1].start) == (
        500 if not overlaps(box, others[:1]).any() else max(sides)
    )


class TestRefusals:
    def test_too_few_scenes(self, tmp_path):
        refusal = cli(
            "rs", "split", write_recipe(draw_tree(tmp_path, SMALL, 2, 1)), "--val", 0.5, "--test", 0.5
        ).refusal
        assert "2 labeled scenes" in refusal

    def test_blocks_that_are_larger_than_scenes(self, many, tmp_path):
        words = ("rs", "split", many, "-o", tmp_path, "--by", "block", "--buffer", 0)
        for side, warned in ((20, True), (8, False)):
            assert (
                "No labeled scene is larger than a block of 20 pixels" in cli(*words, "--block-size", side).err
            ) == warned

    def test_no_labels(self, tmp_path):
        assert "None of the 2" in cli("rs", "split", write_recipe(draw_tree(tmp_path, SMALL, 0, 2))).refusal

    @pytest.mark.parametrize("by", ["scene", "block"])
    def test_scenes_that_cannot_be_used(self, tmp_path, by):
        root = draw_tree(tmp_path, SMALL, 2, 1)
        draw_scene(root / "images" / "s1.tif", SMALL.but(bands=3))
        assert "s1.tif has 3 channels, but" in cli("rs", "split", write_recipe(root), "--by", by).refusal

    def test_labels_without_a_class(self, tmp_path):
        root = draw_tree(tmp_path, SMALL, 1, 0)
        write(root / "labels" / "s0.tif", np.zeros((20, 17), np.uint8), SMALL)
        assert "No pixel" in cli("rs", "split", write_recipe(root), "--by", "block").refusal

    def test_a_buffer_that_leaves_nothing(self, tmp_path):
        draw_scene(tmp_path / "images" / "s0.tif", SMALL)
        draw_label(tmp_path / "labels" / "s0.tif", SMALL)
        words = ("--by", "block", "--block-size", 10, "--buffer", 30)
        assert "smaller --buffer" in cli("rs", "split", write_recipe(tmp_path), *words).refusal
