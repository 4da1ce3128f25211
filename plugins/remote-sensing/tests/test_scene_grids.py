"""Files of a scene that are not on one grid, and polygons that lie elsewhere."""

import json

import pytest
from checked_scenes import data_of, findings, scene, shifted
from drawn_scenes import NORTH_UP, ROTATED, Drawing, draw_label, draw_polygons, draw_scene
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform

from farcluss.errors import DataError
from farcluss_remote_sensing.checks import problem
from farcluss_remote_sensing.files import Grid, Stack
from farcluss_remote_sensing.matching import crs_name, difference
from farcluss_remote_sensing.options import scene_dataset
from farcluss_remote_sensing.scenes import Index, Scene


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

    @pytest.mark.parametrize(
        ("name", "content"), [("a.geojson", b"hello"), ("a.geojson", None), ("a.fgb", b"fgb\3fgb\0" + bytes(64))]
    )
    def test_files_that_are_none(self, tmp_path, name, content):
        image = str(draw_scene(tmp_path / "a.tif"))
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            problem(Scene("a", (image,), str(tmp_path / name)), Stack((image,)))
