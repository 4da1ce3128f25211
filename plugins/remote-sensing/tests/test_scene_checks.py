"""What is wrong with scenes, drawn and found; and nothing found where nothing is wrong."""

import json

import numpy as np
import pytest
import rasterio
from commandline import cli
from drawn_scenes import CLASSES, GEOGRAPHIC, NORTH_UP, ROTATED, Drawing, draw_label, draw_polygons, draw_scene, write
from drawn_scenes import draw_tree as tree_of
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform
from scene_recipes import write_recipe

from farcluss.errors import DataError
from farcluss.jobs.checking import findings_of
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data
from farcluss.recipes.reading import load_recipe
from farcluss_remote_sensing.checks import problem
from farcluss_remote_sensing.files import Grid, Stack, read_header
from farcluss_remote_sensing.frames import border_boxes, longest_run
from farcluss_remote_sensing.matching import crs_name, difference
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene

VALUES = dict(zip(CLASSES, range(1, 5), strict=True))
PLAIN = Drawing()
CLEAN = {
    "plain": PLAIN,
    "rotated": Drawing(transform=ROTATED),
    "geographic": Drawing(crs="EPSG:4326", transform=GEOGRAPHIC),
    "nodata": Drawing(nodata=0, collar=6),
    "nan": Drawing(dtype="float32", collar=6),
    "bytes": Drawing(dtype="uint8", bands=3),
}


def data_of(root, **changes):
    facts = {"root": root, "channels": 5, "mean": 0.0, "std": 1.0, "classes": VALUES, "ignore_index": 0, "val": "val"}
    return Data(**facts | changes)


def findings(root, splits, window=1024, **changes):
    """What a data set of these scenes has to report when it leaves out what cannot be used."""
    data = data_of(root, on_error="skip", **changes)
    return scene_dataset(data, Index(splits), scaling="scale", window=window, min_valid=0.0).findings()


def scene(root, name, drawing=None, group="", labeled=True):
    """A scene that is drawn, at 10 km from others of other names unless `drawing` says where."""
    one = drawing or Drawing(transform=Affine.translation(10_000.0 * ord(name[0]), 0) @ NORTH_UP)
    image = draw_scene(root / f"{name}.tif", one)
    return Scene(name, (str(image),), str(draw_label(root / f"{name}-label.tif", one)) if labeled else None, group)


def shifted(columns, rows=0.0, drawing=PLAIN):
    """A drawing whose pixels lie so many columns and rows farther on."""
    return drawing.but(transform=drawing.transform @ Affine.translation(columns, rows))


class TestClean:
    @pytest.mark.parametrize("drawing", CLEAN.values(), ids=CLEAN)
    def test_drawn_trees(self, tmp_path, drawing):
        def at(place):
            return shifted(53 * place, 70 * (place // 2), drawing)  # edges and corners touch

        splits = {"train": [scene(tmp_path, "a", at(0)), scene(tmp_path, "b", at(1), labeled=False)]}
        splits |= {"val": [scene(tmp_path, "c", at(2))], "test": [scene(tmp_path, "d", at(3))]}
        assert findings(tmp_path, splits, 30, channels=drawing.bands) == []

    def test_pictures_lie_nowhere(self, tmp_path):
        picture = Drawing(bands=3, dtype="uint8", crs=None, transform=Affine.identity())
        splits = {name: [scene(tmp_path, name, picture.but(seed=ord(name[0])))] for name in ("train", "val")}
        assert findings(tmp_path, splits, channels=3) == []

    def test_check_of_a_recipe(self, tmp_path):
        recipe = write_recipe(tree_of(tmp_path, labeled=3), ', scaling = "scale"', val="1/3")
        result = cli("check", recipe)
        assert result.code == 0 and "ready to run" in result.out, result


def pair(tmp_path, drawing, other, warp=False):
    """The problem of a scene of two files, and of one whose label is the second."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))  # files that were opened stay open
    first, second = (draw_scene(folder / f"{n}.tif", one) for n, one in enumerate((drawing, other)))
    label = draw_label(folder / "label.tif", other)
    files = problem(Scene("a", (str(first), str(second))), Stack((str(first), str(second)), warp=warp))
    return files, problem(Scene("a", (str(first),), str(label)), Stack((str(first),), warp=warp))


class TestGrids:
    @pytest.mark.parametrize(
        ("other", "words"),
        [
            (Drawing(size=(35, 27)), ["27 x 35 pixels instead of 53 x 70"]),
            (Drawing(crs="EPSG:32632"), ["EPSG:32632 instead of EPSG:32633"]),
            (shifted(0.5, -2), ["origin 500005, 5000020 ", "instead of origin 500000, 5000000 ", "2 pixels apart"]),
            (Drawing(transform=NORTH_UP @ Affine.scale(1.01)), ["pixels of 10.1 x -10.1", "0.7 pixels apart"]),
            (Drawing(transform=NORTH_UP @ Affine.rotation(10)), ["turned by", "pixels apart"]),
            (Drawing(size=(70, 50), crs="EPSG:3857"), ["50 x 70 pixels", "EPSG:3857 instead"]),
        ],
    )
    def test_what_differs_is_said(self, tmp_path, other, words):
        for text, name in zip(pair(tmp_path, Drawing(), other), ("1.tif", "label.tif"), strict=True):
            assert str(tmp_path / "0" / name) in text and str(tmp_path / "0" / "0.tif") in text
            assert "data.layout.warp" in text
            for word in words:
                assert word in text

    def test_a_hundredth_of_a_pixel_is_nothing(self, tmp_path):
        assert pair(tmp_path, Drawing(), shifted(0.009)) == ("", "")
        assert all(pair(tmp_path, Drawing(), shifted(0.011)))
        # A pixel that is longer by 1/5000 adds up to a hundredth over 53 pixels, and to more over 70.
        assert all(pair(tmp_path, Drawing(), Drawing(transform=NORTH_UP @ Affine.scale(1.0, 1 + 1 / 5000))))
        assert pair(tmp_path, Drawing(), Drawing(transform=NORTH_UP @ Affine.scale(1.0, 1 + 1 / 9000))) == ("", "")

    def test_one_system_in_other_words_is_the_same(self, tmp_path):
        wkt = CRS.from_epsg(32633).to_wkt()
        words = wkt.replace("WGS 84 / UTM zone 33N", "zone of our town").replace(',AUTHORITY["EPSG","32633"]', "")
        grids = [Grid(70, 53, tuple(NORTH_UP)[:6], crs) for crs in (wkt, words, words.replace("500000", "500001"))]
        assert difference(grids[0], grids[1]) == "" != difference(grids[0], grids[2])
        assert [crs_name(grid.crs) for grid in grids] == ["EPSG:32633", "EPSG:32633", "zone of our town"]

    def test_a_label_without_a_place_lies_where_its_scene_does(self, tmp_path):
        nowhere = Drawing(crs=None, transform=Affine.identity())
        assert pair(tmp_path, Drawing(), nowhere)[1] == ""
        assert "53 x 69 pixels" in pair(tmp_path, Drawing(), nowhere.but(size=(69, 53)))[1]

    def test_warping_makes_grids_fit(self, tmp_path):
        for other in (Drawing(size=(35, 27)), shifted(0.5), shifted(50.0), Drawing()):
            assert pair(tmp_path, Drawing(), other, warp=True) == ("", "")
        east, north = transform("EPSG:32633", "EPSG:32632", [500_100.0], [4_999_900.0])
        moved = Drawing(crs="EPSG:32632", transform=Affine.translation(east[0], north[0]) @ Affine.scale(10, -10))
        assert pair(tmp_path, Drawing(), moved, warp=True) == ("", "")

    @pytest.mark.parametrize(
        ("other", "text"),
        [
            (shifted(53.0), "another area"),
            (Drawing(crs="EPSG:32632"), "another area"),
            (Drawing(crs=None, transform=Affine.identity()), "only one of them is georeferenced"),
        ],
    )
    def test_what_cannot_be_warped(self, tmp_path, other, text):
        assert all(text in found for found in pair(tmp_path, Drawing(), other, warp=True))

    def test_pictures_of_several_sizes_cannot_be_warped(self, tmp_path):
        nowhere = Drawing(crs=None, transform=Affine.identity())
        found = pair(tmp_path, nowhere, nowhere.but(size=(35, 27)), warp=True)
        assert all("neither is georeferenced" in text for text in found)

    def test_scenes_with_problems_are_left_out(self, tmp_path):
        good, bad = scene(tmp_path, "good"), scene(tmp_path, "bad")
        draw_label(tmp_path / "bad-label.tif", shifted(3.0))
        (found,) = findings(tmp_path, {"train": [good, bad]}, val="none")
        assert "bad-label.tif is not on the grid of its scene" in found
        with pytest.raises(DataError, match=r"bad-label.tif is not on the grid"):
            scene_dataset(data_of(tmp_path), Index({"train": [good, bad]}), scaling="scale").items("train")

    def test_a_label_that_is_not_there(self, tmp_path):
        one = Scene("a", scene(tmp_path, "a").images, str(tmp_path / "gone.tif"))
        (found,) = findings(tmp_path, {"train": [one]}, val="none")
        assert "gone.tif does not exist" in found


class TestPolygons:
    @pytest.mark.parametrize("drawing", [Drawing(), Drawing(transform=ROTATED)], ids=["plain", "rotated"])
    @pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
    def test_where_they_belong(self, tmp_path, drawing, suffix):
        image = str(draw_scene(tmp_path / "a.tif", drawing))
        label = str(draw_polygons(tmp_path / f"a{suffix}", drawing))
        assert problem(Scene("a", (image,), label), Stack((image,))) == ""

    def test_in_degrees(self, tmp_path):
        image = str(draw_scene(tmp_path / "a.tif"))
        corners = NORTH_UP @ (10, 10), NORTH_UP @ (30, 10), NORTH_UP @ (30, 40), NORTH_UP @ (10, 10)
        for name, reach in (("inside", 0), ("outside", 90_000)):
            places = transform("EPSG:32633", "EPSG:4326", *zip(*((x + reach, y) for x, y in corners), strict=True))
            ring = [list(place) for place in zip(*places, strict=True)]
            feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
            path = tmp_path / f"{name}.geojson"
            path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        stack = Stack((image,))
        assert problem(Scene("a", (image,), str(tmp_path / "inside.geojson")), stack) == ""
        found = problem(Scene("a", (image,), str(tmp_path / "outside.geojson")), stack)
        assert "lie elsewhere: within 16." in found and "EPSG:4326" in found and "EPSG:32633" in found

    def test_nothing_found_is_no_problem(self, tmp_path):
        image = str(draw_scene(tmp_path / "a.tif"))
        path = tmp_path / "a.geojson"
        path.write_text('{"type": "FeatureCollection", "features": []}')
        assert problem(Scene("a", (image,), str(path)), Stack((image,))) == ""

    def test_meters_that_geojson_calls_degrees(self, tmp_path):
        image, path = str(draw_scene(tmp_path / "a.tif")), draw_polygons(tmp_path / "a.geojson")
        content = json.loads(path.read_text())
        content.pop("crs")
        path.write_text(json.dumps(content))
        found = problem(Scene("a", (image,), str(path)), Stack((image,)))
        assert "a.geojson" in found and "lie elsewhere" in found and "is in degrees" in found

    @pytest.mark.parametrize("text", ["hello", None])
    def test_files_that_are_none(self, tmp_path, text):
        image = str(draw_scene(tmp_path / "a.tif"))
        if text:
            (tmp_path / "a.geojson").write_text(text)
        with pytest.raises(DataError, match=r"a.geojson cannot be read"):
            problem(Scene("a", (image,), str(tmp_path / "a.geojson")), Stack((image,)))


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
    @pytest.mark.parametrize("drawing", [Drawing(), Drawing(transform=ROTATED), CLEAN["geographic"]])
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
        found = findings(tmp_path, splits)
        assert [" ".join(text.split()[:9]) for text in found] == [
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

    def test_twenty_pairs_are_named(self, tmp_path):
        def many(letter, count, labeled):
            return [scene(tmp_path, f"{letter}{n}", Drawing(seed=n), labeled=labeled) for n in range(count)]

        splits = {"train": [scene(tmp_path, "x"), *many("u", 6, False)], "val": many("v", 4, True)}
        found = findings(tmp_path, splits)
        assert len(found) == 21 and found[-1].startswith("24 pairs of scenes")


class TestGroups:
    def test_of_the_layout(self, tmp_path):
        train, test = [scene(tmp_path, "a", group="rome")], [scene(tmp_path, "b", group="rome")]
        (found,) = findings(tmp_path, {"train": train, "test": test}, val="none")
        assert "1 groups are both in labeled and in the split test, the first is rome" in found

    def test_of_the_recipe_are_refused_when_it_is_built(self, tmp_path):
        train, val = [scene(tmp_path, "a", group="rome")], [scene(tmp_path, "b", group="rome")]
        assert findings(tmp_path, {"train": train, "val": val}) == []


class TestFrames:
    @pytest.mark.parametrize("drawing", [Drawing(collar=6), Drawing(collar=6, dtype="uint8", bands=3)])
    def test_a_collar_without_nodata(self, tmp_path, drawing):
        (found,) = findings(
            tmp_path, {"train": [scene(tmp_path, "a", drawing)]}, val="none", channels=drawing.bands
        )  # fmt: skip
        assert "a.tif" in found and "is 0 in all bands" in found and "data.layout.nodata = 0" in found
        share = float(found.split(": ")[1].split(" %")[0])
        assert share == pytest.approx(100 * (70 + 2 * 6) / (2 * (70 + 53)), abs=4)

    def test_a_turned_scene_in_a_frame(self, tmp_path):
        values = Drawing(size=(300, 300)).values()
        rows, columns = np.indices((300, 300))
        values[:, rows + columns < 60] = 65535
        image = str(write(tmp_path / "a.tif", values, Drawing()))
        (found,) = findings(tmp_path, {"train": [Scene("a", (image,), None), scene(tmp_path, "b")]}, val="none")
        assert "is 65535 in all bands" in found and "data.layout.nodata = 65535" in found

    def test_some_pixels_or_one_band_may_be_constant(self, tmp_path):
        values = Drawing(size=(100, 100)).values()
        values[:, :6, :15] = 0  # 3.75 % of the border
        values[2, :, :9] = 0
        image = str(write(tmp_path / "a.tif", values, Drawing()))
        assert findings(tmp_path, {"train": [Scene("a", (image,)), scene(tmp_path, "b")]}, val="none") == []

    def test_runs(self):
        values = np.array([1, np.nan, np.nan, np.nan, np.nan, 0, 2, 2, 2, 1.0])
        assert longest_run(values) == (0.3, 2.0)
        assert longest_run(np.roll(values, 3)) == (0.3, 2.0)
        assert longest_run(np.array([2.0, 1, 1, 2, 2])) == (0.6, 2.0)
        assert longest_run(np.zeros(5)) == (1.0, 0.0)
        assert longest_run(np.full(5, np.nan))[0] == 0.0

    @pytest.mark.parametrize("size", [(70, 53), (1, 1), (3, 900), (2000, 1500)])
    def test_places_lie_along_the_border(self, size):
        boxes = border_boxes(size)
        assert len(boxes) == min(128, 2 * sum(size))
        for rows, columns in boxes:
            assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
            assert rows.start == 0 or columns.start == 0 or rows.stop == size[0] or columns.stop == size[1]
        sides = [sum(r.start == 0 for r, _ in boxes), sum(c.start == 0 for _, c in boxes)]
        if min(size) > 4:
            assert sides[0] / len(boxes) == pytest.approx(size[1] / 2 / sum(size), abs=0.05)
            assert sides[1] / len(boxes) == pytest.approx(size[0] / 2 / sum(size), abs=0.05)


class TestBands:
    """What weights files say of the bands of training, and scenes whose bands are others."""

    @pytest.fixture
    def named(self, tmp_path):
        def draw(name, bands):
            one = scene(tmp_path, name)
            with rasterio.open(one.images[0], "r+") as file:
                file.descriptions = bands
            return one

        return draw

    def test_type_and_names_are_kept_without_statistics(self, tmp_path, named):
        index = Index({"train": [named("a", "BGRNS"), named("b", "BGRNS")]})
        carried = scene_dataset(data_of(tmp_path), index, scaling="scale").carried
        assert carried.layout.options["stats"] == [{"dtype": "uint16", "name": name} for name in "BGRNS"]

    def test_another_order_is_a_problem(self, tmp_path, named):
        (found,) = findings(tmp_path, {"train": [named("a", "BGRNS"), named("b", "RGBNS")]}, val="none")
        assert "b.tif has the bands R, G, B, N, S, but in training they are B, G, R, N, S" in found

    def test_a_value_apart_from_all_others_is_a_problem(self, tmp_path):
        bands = [{"mean": 1.0, "std": 1.0, "apart": -9999} for _ in range(5)]
        index = Index({"train": [scene(tmp_path, "a")]})
        (found,) = scene_dataset(data_of(tmp_path, val="none"), index, stats=bands).findings()
        assert "data.layout.nodata = -9999" in found

    def test_a_frame_that_the_recipe_calls_nodata(self, tmp_path):
        one = scene(tmp_path, "a", Drawing(collar=6))
        dataset = scene_dataset(data_of(tmp_path, val="none"), Index({"train": [one]}), scaling="scale", nodata=0)
        assert dataset.findings() == []
        valid = dataset.read(dataset.items("train")[0]).valid
        np.testing.assert_array_equal(valid, ~Drawing(collar=6).invalid())


class TestLabels:
    def test_nodata_and_band_of_the_recipe(self, tmp_path):
        one = scene(tmp_path, "a", PLAIN)
        label = np.stack([PLAIN.classes() * 0 + 9, PLAIN.classes() + 1]).astype(np.uint8)
        write(tmp_path / "a-label.tif", label, Drawing(), nodata=1)
        how = {"scaling": "scale", "label_nodata": 2, "label_band": 2}
        dataset = scene_dataset(data_of(tmp_path, val="none"), Index({"train": [one]}), **how)
        mask = dataset.read(dataset.items("train")[0]).mask
        np.testing.assert_array_equal(mask, np.where(PLAIN.classes() == 1, 255, PLAIN.classes()))

    @pytest.mark.parametrize("profile", [{"compress": "jpeg"}, {"driver": "JPEG"}, {"driver": "JP2OpenJPEG"}])
    def test_losses(self, tmp_path, profile):
        one = scene(tmp_path, "a")
        name = "label.jpg" if profile.get("driver") == "JPEG" else "label.tif"
        drawing = Drawing(transform=Affine.translation(10_000.0 * ord("a"), 0) @ NORTH_UP)
        label = write(tmp_path / name, drawing.classes() + 1, drawing, **profile)
        (found,) = findings(tmp_path, {"train": [Scene("a", one.images, str(label))]}, val="none")
        assert f"{name} has lossy compression" in found

    @pytest.mark.parametrize("profile", [{"compress": "deflate"}, {"compress": "lzw"}, {"driver": "PNG"}])
    def test_no_losses(self, tmp_path, profile):
        assert not read_header(str(write(tmp_path / "a", Drawing().classes(), Drawing(), **profile))).lossy

    @pytest.mark.parametrize(
        ("nodata", "text"), [(1, "declares 1 as nodata, but that is the class water"), (0, ""), (9, "")]
    )
    def test_a_class_that_the_file_calls_no_data(self, tmp_path, nodata, text):
        one = scene(tmp_path, "a")
        with rasterio.open(one.label, "r+") as file:
            file.nodata = nodata
        found = findings(tmp_path, {"train": [one]}, val="none")
        assert [text in each and "label_nodata" in each for each in found] == ([True] if text else [])

    def test_unknown_values_are_named_with_their_file(self, tmp_path):
        root = tree_of(tmp_path, labeled=2, unlabeled=1)
        write(root / "labels" / "s0.tif", Drawing().classes() + np.uint8(3), Drawing())
        result = cli("check", write_recipe(root, ', scaling = "scale"', val="none"), "--json")
        assert result.code == 1, result
        (found,) = json.loads(result.out)["problems"]
        assert str(root / "labels" / "s0.tif") in found and "5, 6" in found


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
