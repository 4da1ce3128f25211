"""Ground that two sets share: windows, scenes of one place, groups."""

import json

import numpy as np
import pytest
from checked_scenes import findings, scene, shifted
from commandline import cli
from drawn_scenes import GEOGRAPHIC, NORTH_UP, ROTATED, Drawing
from drawn_scenes import draw_tree as tree_of
from rasterio.transform import Affine
from rasterio.warp import transform
from scene_recipes import write_recipe

from farcluss.jobs.checking import findings_of
from farcluss.learning.build import build_dataset
from farcluss.recipes.reading import load_recipe

DEGREES = Drawing(crs="EPSG:4326", transform=GEOGRAPHIC)


class TestWindows:
    @pytest.fixture
    def root(self, tmp_path):
        return tree_of(tmp_path, labeled=2, unlabeled=0)

    def lists(self, root, **lines):
        for name, text in lines.items():
            (root / f"{name}.txt").write_text(text)
        return write_recipe(root, ', scaling = "scale", window = 20', **{n: str(root / f"{n}.txt") for n in lines})

    def test_of_two_sets_that_overlap(self, root):
        # The windows of 20 x 17 and 20 x 18 pixels of both sets are not the same, but their pixels are.
        lines = {"labeled": "s0[0:40,0:53]", "unlabeled": "s1[30:70,0:53]", "val": "s0[30:70,20:53]\ns1[0:29,0:9]"}
        recipe = self.lists(root, **lines)
        result = cli("check", recipe, "--json")
        (found,) = json.loads(result.out)["problems"]
        assert result.code == 1
        assert "s0 in labeled and in val overlap by 330 pixels" in found and "s0[30:50,20:36]" in found
        assert findings_of(build_dataset(load_recipe(str(recipe), (), ("data.allow_overlap=true",)).data)) == []

    def test_of_two_sets_that_touch(self, root):
        lines = {"labeled": "s0[0:40,0:53]", "unlabeled": "s1[30:70,0:53]", "val": "s0[40:70,0:53]\ns1[0:30,0:53]"}
        assert findings_of(build_dataset(load_recipe(str(self.lists(root, **lines))).data)) == []


def _common(other):
    """Pixels of a drawing whose centers lie in the scene `Drawing()`, transformed one by one."""
    rows, columns = np.indices(other.size) + 0.5
    east, north = other.transform @ (columns.ravel(), rows.ravel())
    places = np.array(transform(other.crs, "EPSG:32633", east, north))
    column, row = ~NORTH_UP @ places
    return int(((column > 0) & (column < 53) & (row > 0) & (row < 70)).sum())


class TestGround:
    @pytest.mark.parametrize(
        "drawing", [Drawing(), Drawing(transform=ROTATED), Drawing(crs="EPSG:4326", transform=GEOGRAPHIC)]
    )
    @pytest.mark.parametrize(("columns", "rows", "shared"), [(50, 0, 3 * 70), (-13, 60, 40 * 10), (52.9, 69.8, 0)])
    def test_of_two_scenes(self, tmp_path, drawing, columns, rows, shared):
        first, second = scene(tmp_path, "a", drawing), scene(tmp_path, "b", shifted(columns, rows, drawing))
        found = findings(tmp_path, {"train": [first], "val": [second]}, 16)
        assert len(found) == (shared > 0)
        if shared:
            assert f"Scene a in labeled and scene b in val show the same ground, {shared} pixels of b" in found[0]
        assert findings(tmp_path, {"train": [first], "val": [second]}, 16, allow_overlap=True) == []

    def test_unlabeled_scenes_and_those_of_the_layout(self, tmp_path):
        splits = {
            "train": [scene(tmp_path, "a"), scene(tmp_path, "u", shifted(9.0), labeled=False)],
            "val": [scene(tmp_path, "v", shifted(18.0))],
            "test": [scene(tmp_path, "t", shifted(27.0))],
        }
        (found,) = findings(tmp_path, splits)
        assert [" ".join(text.split()[:9]) for text in found.splitlines()] == [
            "Scene u in unlabeled and scene v in val",
            "Scene u in unlabeled and scene t in split",
            "Scene v in val and scene t in split",
        ]
        (tmp_path / "val.txt").write_text("v\n")  # with lists, the layout's splits say nothing
        assert len(findings(tmp_path, splits, val="val.txt")) == 1

    @pytest.mark.parametrize(("east", "shared"), [(0.0, True), (5_000.0, False)])
    def test_in_two_systems(self, tmp_path, east, shared):
        places = transform("EPSG:32633", "EPSG:32632", [500_200.0 + east], [4_999_800.0])
        other = Drawing(
            crs="EPSG:32632", transform=Affine.translation(places[0][0], places[1][0]) @ Affine.scale(10, -10)
        )
        found = findings(tmp_path, {"train": [scene(tmp_path, "a", Drawing())], "val": [scene(tmp_path, "b", other)]})
        assert len(found) == shared
        if shared:
            pixels = int(found[0].split("ground, ")[1].split(" ")[0].replace(",", ""))
            assert pixels == pytest.approx(_common(other), rel=0.02)

    def test_across_the_date_line(self, tmp_path):
        def at(zone, longitude):
            east, north = transform("EPSG:4326", f"EPSG:326{zone}", [longitude], [50.0])
            return Drawing(crs=f"EPSG:326{zone}", transform=Affine(10, 0, east[0], 0, -10, north[0]))

        first = scene(tmp_path, "a", at("60", 179.997))  # 530 m wide: reaches beyond it
        for number, (longitude, shared) in enumerate([(179.998, True), (-170.0, False), (-179.9, False)]):
            other = scene(tmp_path, f"b{number}", at("01", longitude))
            assert len(findings(tmp_path, {"train": [first], "val": [other]})) == shared

    def test_many_pairs_are_one_problem(self, tmp_path):
        def many(letter, count, labeled):
            return [scene(tmp_path, f"{letter}{n}", Drawing(seed=n), labeled=labeled) for n in range(count)]

        splits = {"train": [scene(tmp_path, "x"), *many("u", 6, False)], "val": many("v", 4, True)}
        (found,) = findings(tmp_path, splits)
        first, *others = found.splitlines()
        assert "pixels of v0 (and 23 more pairs): scores would be computed" in first
        assert len(others) == 23 and not any("scores" in text for text in others)


class TestGroups:
    def test_of_the_layout(self, tmp_path):
        train, test = [scene(tmp_path, "a", group="rome")], [scene(tmp_path, "b", group="rome")]
        (found,) = findings(tmp_path, {"train": train, "test": test}, val="none")
        assert "1 groups are both in labeled and in the split test, the first is rome" in found

    def test_of_the_recipe_are_refused_when_it_is_built(self, tmp_path):
        train, val = [scene(tmp_path, "a", group="rome")], [scene(tmp_path, "b", group="rome")]
        assert findings(tmp_path, {"train": train, "val": val}) == []


def test_ground_is_shared_across_the_180th_meridian():
    from rasterio.crs import CRS

    from farcluss_remote_sensing.files import Grid
    from farcluss_remote_sensing.leaks import Cover, _overlapping
    from farcluss_remote_sensing.scenes import Scene
    from farcluss_remote_sensing.tiles import whole

    def cover(name, code, transform):
        grid = Grid(100, 100, transform, CRS.from_epsg(code).to_wkt())
        return [Cover(Scene(name, (name,)), grid, (whole(grid.size),))]

    across = cover("across", 32601, (2000.0, 0.0, 100_000.0, 0.0, -2000.0, 100_000.0))  # 179.4 east to 178.8 west
    west = cover("west", 4326, (0.005, 0.0, -179.9, 0.0, -0.005, 0.3))
    beyond = cover("beyond", 4326, (0.005, 0.0, -178.0, 0.0, -0.005, 0.3))
    for first, second in ((across, west), (west, across)):
        assert len(list(_overlapping(first, second, "EPSG:4326"))) == 1
    (_, pixels), *_ = _overlapping(across, west, "EPSG:4326")
    assert 9_900 < pixels <= 10_000.5
    assert not list(_overlapping(across, beyond, "EPSG:4326"))
