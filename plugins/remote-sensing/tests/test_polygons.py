"""Polygons of maps: the same whatever the blocks, with exact areas, in files that others read."""

import json

import numpy as np
import pyogrio.raw
import pyproj
import pytest
import shapely
from drawn_scenes import CLASSES, GEOGRAPHIC, ROTATED, UTM, Drawing, write
from rasterio.crs import CRS
from rasterio.features import geometry_mask, shapes
from rasterio.transform import Affine
from rasterio.warp import transform
from shapely.geometry import box, mapping, shape

from farcluss.errors import DataError
from farcluss_remote_sensing.areas import on_ellipsoid, square_meters
from farcluss_remote_sensing.files import Grid
from farcluss_remote_sensing.outlines import Block, outline
from farcluss_remote_sensing.polygons import write_polygons
from farcluss_remote_sensing.seams import find_roots

WGS84 = 6_378_137.0, 1 / 298.257223563
FEET = "EPSG:2263"
CUSTOM = "+proj=laea +lat_0=48.5 +lon_0=14.2 +x_0=7 +y_0=9 +datum=WGS84 +units=m"
PATTERNS = {
    "one": ["0"],
    "nothing": [".."],
    "ring": ["0000", "0110", "0110", "0000"],
    "diagonal": ["01", "10"],
    "holes that touch": ["00000", "01000", "00100", "00010", "00000"],
    "outline that touches a hole": ["1000", "0100", "0001", "0000"],
    "spiral": ["00000", "11110", "00010", "01110", "00000"],
    "islands": [".0.0.", "0.0.0", ".0.0."],
    "hole of nothing": ["111", "1.1", "111"],
    "hole in a hole": ["00000", "01110", "01010", "01110", "00000"],
}


def drawn(rows):
    """Classes and where they are valid, of a pattern in which a dot is nothing."""
    cells = np.array([list(row) for row in rows])
    return np.where(cells == ".", "9", cells).astype(np.uint8), cells != "."


def random_map(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 26, 2))
    return rng.integers(0, rng.integers(2, 5), size).astype(np.uint8), rng.random(size) < rng.choice([0.6, 0.95, 1])


def traced(classes, valid, block, confidence=None):
    def read(window):
        return Block(classes[window], valid[window], None if confidence is None else confidence[window])

    return outline(read, classes.shape, block)


def in_one_piece(classes, valid):
    """What GDAL makes of the whole map: polygons in normal form with their class."""
    found = [(shape(each), value) for each, value in shapes(classes, mask=valid, connectivity=4)]
    return {(shapely.normalize(polygon).wkb, int(value)) for polygon, value in found}


class TestOutline:
    def check(self, classes, valid, *blocks):
        wanted = in_one_piece(classes, valid)
        for block in blocks:
            found = traced(classes, valid, block)
            mine = list(zip(shapely.to_wkb(shapely.normalize(found.polygons)), found.classes.tolist(), strict=True))
            assert len(set(mine)) == len(mine)
            assert set(mine) == wanted
            assert shapely.is_valid(found.polygons).all()

    @pytest.mark.parametrize("rows", PATTERNS.values(), ids=PATTERNS)
    @pytest.mark.parametrize("block", [1, 2, 3, 9])
    def test_patterns_do_not_depend_on_blocks(self, rows, block):
        self.check(*drawn(rows), block)

    @pytest.mark.parametrize("seed", range(20))
    def test_random_maps_do_not_depend_on_blocks(self, seed):
        classes, valid = random_map(seed)
        blocks = np.random.default_rng(seed).integers(2, 12, 3).tolist()
        # Blocks of one pixel are hundreds in a map: the patterns have them too.
        self.check(classes, valid, *blocks, *([1] if seed % 10 == 0 else []))

    @pytest.mark.parametrize("block", [16, 23])
    def test_of_large_smooth_regions(self, block):
        drawing = Drawing(collar=6)
        self.check(drawing.classes(), ~drawing.invalid(), block)

    @pytest.mark.parametrize("seed", range(5))
    def test_polygons_of_a_class_cover_its_pixels(self, seed):
        classes, valid = random_map(seed)
        found = traced(classes, valid, 5)
        for index in np.unique(classes[valid]):
            rows, columns = np.nonzero((classes == index) & valid)
            pixels = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))
            assert shapely.equals(shapely.union_all(found.polygons[found.classes == index]), pixels)

    @pytest.mark.parametrize("block", [3, 50])
    def test_they_come_in_the_order_of_their_first_pixels(self, block):
        classes, valid = random_map(3)
        firsts = []
        for polygon in traced(classes, valid, block).polygons:
            rows, columns = np.nonzero(geometry_mask([mapping(polygon)], classes.shape, Affine.identity(), invert=True))
            firsts.append((rows[0], columns[0]))
        assert firsts == sorted(firsts) and len(firsts) > 9

    @pytest.mark.parametrize("block", [4, 50])
    def test_confidence_is_the_mean_over_finite_pixels(self, block):
        classes, valid = random_map(1)
        rng = np.random.default_rng(0)
        confidence = np.where(rng.random(classes.shape) < 0.3, np.nan, rng.random(classes.shape)).astype(np.float32)
        found = traced(classes, valid, block, confidence)
        means = []
        for polygon in found.polygons:
            inside = geometry_mask([mapping(polygon)], classes.shape, Affine.identity(), invert=True)
            values = confidence[inside & np.isfinite(confidence)].astype(np.float64)
            means.append(values.mean() if len(values) else np.nan)
        np.testing.assert_allclose(found.confidence, means, rtol=1e-12)
        assert np.isnan(means).any() and not np.isnan(means).all()

    def test_only_blocks_are_read(self):
        classes, valid = random_map(5)
        shapes_read = []

        def read(window):
            shapes_read.append(classes[window].shape)
            return Block(classes[window], valid[window])

        outline(read, classes.shape, 4)
        assert max(map(max, shapes_read)) == 4 and sum(h * w for h, w in shapes_read) == classes.size


def test_roots_are_the_smallest_of_what_is_connected():
    assert find_roots(7, np.array([[5, 2], [6, 5], [1, 0], [4, 4]])).tolist() == [0, 0, 2, 3, 4, 2, 2]
    assert find_roots(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def grid_of(transform, crs, size=(9, 9)):
    return Grid(*size, tuple(transform)[:6], CRS.from_user_input(crs).to_wkt() if crs else "")


def lonlat(polygon, grid, parts=1):
    """Longitudes and latitudes of a polygon's outline, with edges divided in `parts` per pixel."""
    columns, rows = shapely.get_coordinates(shapely.segmentize(polygon, 1 / parts)).T
    return Affine(*grid.transform) @ (columns, rows)


class TestAreas:
    square = shapely.polygons([[(0, 0), (0, 9), (9, 9), (9, 0), (0, 0)]])
    tricky = np.array([box(1, 1, 8, 8).difference(box(2, 3, 5, 5)), box(0, 0, 9, 1).union(box(8, 0, 9, 7))])
    geographic = {
        "small": GEOGRAPHIC,
        "south": Affine(0.01, 0, -70.3, 0, -0.01, -33.4),
        "rotated": Affine.translation(15, 62) @ Affine.rotation(31) @ Affine.scale(0.002, -0.001),
        "sheared": Affine(0.003, 0.001, 20, -0.0005, -0.002, 5),
        "across the equator": Affine(0.02, 0, 11, 0, -0.02, 0.09),
        "upwards": Affine(0.02, 0, 11, 0, 0.02, 70),
    }

    @pytest.mark.parametrize("transform", geographic.values(), ids=geographic)
    def test_in_degrees_as_geographiclib_has_them(self, transform):
        grid, geod = grid_of(transform, "EPSG:4326"), pyproj.Geod(ellps="WGS84")
        polygons = shapely.normalize(self.tricky)
        expected = []
        for polygon in polygons:
            rings = [polygon.exterior, *polygon.interiors]
            first, *holes = [abs(geod.polygon_area_perimeter(*lonlat(ring, grid, 4))[0]) for ring in rings]
            expected.append(first - sum(holes))
        found = square_meters(polygons, grid)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_of_the_whole_earth(self):
        """The known surface of the ellipsoid, also where the outermost pixels reach beyond the poles."""
        for place in (Affine(40, 0, -180, 0, -20, 90), Affine(40, 0, -180, 0, -25, 112.5)):
            found = on_ellipsoid(self.square, grid_of(place, "EPSG:4326"), np.pi / 180, *WGS84)
            np.testing.assert_allclose(found, 510_065_621_724_088.44, rtol=1e-12)

    def test_on_a_sphere(self):
        grid = grid_of(Affine(40, 0, -180, 0, -20, 90), "+proj=longlat +R=6371000 +no_defs")
        np.testing.assert_allclose(square_meters(self.square, grid), 4 * np.pi * 6_371_000.0**2)

    def test_on_another_ellipsoid_and_in_grads(self):
        """NTF (Paris): Clarke 1880, angles in grads, 400 to a circle."""
        grid = grid_of(Affine(0.01, 0, 2, 0, -0.01, 54), "EPSG:4807")
        degrees = Grid(9, 9, tuple(0.9 * value for value in grid.transform), grid.crs)
        geod = pyproj.Geod(a=6_378_249.2, b=6_356_515.0)
        expected = abs(geod.polygon_area_perimeter(*lonlat(self.square[0], degrees, 4))[0])
        np.testing.assert_allclose(square_meters(self.square, grid), expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("transform", "crs"),
        [
            (ROTATED @ Affine.scale(40), UTM),  # geographiclib errs by 1e-4 square meters per vertex
            (Affine(30, 0, 980_000, 0, -30, 200_000), FEET),
            (Affine(300, 100, 0, 200, -400, 0), CUSTOM),
            (Affine(100, 0, -13.6e6, 0, -100, 4.6e6), "EPSG:3857"),
            (Affine(1000, 0, -4500, 0, -1000, 4500), "EPSG:3031"),
            (Affine(1000, 0, 320_000, 0, -1000, 7_000_000), "EPSG:32601"),
        ],
        ids=["rotated", "feet", "local", "web mercator, where pixels are 62 % too large", "over a pole", "date line"],
    )
    def test_of_projected_pixels_as_geographiclib_has_them(self, transform, crs):
        grid, geod = grid_of(transform, crs), pyproj.CRS(crs).get_geod()
        place = pyproj.Transformer.from_crs(crs, pyproj.CRS(crs).geodetic_crs, always_xy=True).transform
        expected = []
        for polygon in self.tricky:
            rings = [polygon.exterior, *polygon.interiors]
            first, *holes = [abs(geod.polygon_area_perimeter(*place(*lonlat(ring, grid, 8)))[0]) for ring in rings]
            expected.append(first - sum(holes))
        np.testing.assert_allclose(square_meters(self.tricky, grid), expected, rtol=1e-6)

    def test_without_a_place_there_are_none(self):
        assert np.isnan(square_meters(self.square, grid_of(Affine.identity(), None))).all()


DRAWINGS = {
    "plain": Drawing(collar=6),
    "rotated": Drawing(collar=6, transform=ROTATED),
    "geographic": Drawing(collar=6, crs="EPSG:4326", transform=GEOGRAPHIC),
    "feet": Drawing(collar=6, crs=FEET, transform=Affine(3.0, 0.0, 980_000.0, 0.0, -3.0, 200_000.0)),
    "custom": Drawing(collar=6, crs=CUSTOM, transform=Affine(3.0, 1.0, 100.0, 2.0, -4.0, 900.0)),
}


def map_of(drawing):
    """Classes of a drawing with single pixels, diagonals and a checkerboard in it; 255 where it is invalid."""
    classes = drawing.classes()
    classes[2:9, 20:27] = np.indices((7, 7)).sum(0) % 2
    classes[30, 30] = (classes[30, 30] + 1) % 4
    return np.where(drawing.invalid(), 255, classes).astype(np.uint8)


def draw_map(folder, drawing=DRAWINGS["plain"], **profile):
    return write(folder / "map.tif", map_of(drawing), drawing, **({"nodata": 255} | profile))


def draw_confidence(folder, drawing=DRAWINGS["plain"]):
    values = np.random.default_rng(4).random(drawing.size).astype(np.float32)
    return write(folder / "confidence.tif", np.where(drawing.invalid(), np.nan, values), drawing, nodata=np.nan)


def read(path):
    """Geometries, attributes by name, and CRS of a file."""
    meta, _, geometry, columns = pyogrio.raw.read(path)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True)), meta["crs"]


@pytest.fixture(params=DRAWINGS.values(), ids=DRAWINGS)
def written(request, tmp_path):
    """A drawing, and what was written of its map and confidence."""
    paths = draw_map(tmp_path, request.param), draw_confidence(tmp_path, request.param)
    outputs = {"gpkg": tmp_path / "out" / "map.gpkg", "geojson": tmp_path / "out" / "map.geojson"}
    write_polygons(*paths, CLASSES, outputs, block=20)
    return request.param, outputs


class TestFiles:
    def test_a_geopackage_covers_the_pixels_of_each_class(self, written):
        drawing, outputs = written
        polygons, table, crs = read(outputs["gpkg"])
        assert CRS.from_user_input(crs) == CRS.from_user_input(drawing.crs)
        classes = map_of(drawing)
        assert set(table["class_id"]) == {0, 1, 2, 3} and shapely.is_valid(polygons).all()
        assert table["class"].tolist() == [CLASSES[index] for index in table["class_id"]]
        for index in range(4):
            chosen = [mapping(polygon) for polygon in polygons[table["class_id"] == index]]
            inside = geometry_mask(chosen, classes.shape, drawing.transform, invert=True)
            np.testing.assert_array_equal(inside, classes == index)
            assert table["pixels"][table["class_id"] == index].sum() == (classes == index).sum()

    def test_areas_are_those_of_the_pixels(self, written):
        drawing, outputs = written
        polygons, table, _ = read(outputs["gpkg"])
        geod = pyproj.CRS(drawing.crs).get_geod()
        place = pyproj.Transformer.from_crs(drawing.crs, pyproj.CRS(drawing.crs).geodetic_crs, always_xy=True).transform
        for polygon, area in list(zip(polygons, table["area_m2"], strict=True))[::9]:
            rings = [polygon.exterior, *polygon.interiors]
            fine = [shapely.segmentize(ring, abs(drawing.transform.a) / 8) for ring in rings]
            first, *holes = [abs(geod.polygon_area_perimeter(*place(*ring.xy))[0]) for ring in fine]
            assert area == pytest.approx(first - sum(holes), rel=1e-6, abs=0.01)

    def test_confidence_is_the_mean_of_a_polygon(self, written):
        drawing, outputs = written
        polygons, table, _ = read(outputs["gpkg"])
        values = np.random.default_rng(4).random(drawing.size).astype(np.float32)
        for polygon, mean in list(zip(polygons, table["confidence"], strict=True))[::7]:
            inside = geometry_mask([mapping(polygon)], drawing.size, drawing.transform, invert=True)
            assert mean == pytest.approx(values[inside].mean(dtype=np.float64), rel=1e-9)

    def test_geojson_is_in_longitude_and_latitude(self, written):
        drawing, outputs = written
        native, table, _ = read(outputs["gpkg"])
        found, same, _ = read(outputs["geojson"])
        assert same["class"].tolist() == table["class"].tolist()
        for name in ("class_id", "pixels", "area_m2", "confidence"):
            np.testing.assert_allclose(same[name], table[name], rtol=1e-12)
        for before, after in zip(native, found, strict=True):
            x, y = shapely.get_coordinates(before).T
            expected = np.array(transform(drawing.crs, "EPSG:4326", x, y)).T
            there = shapely.get_coordinates(after)
            assert len(there) == len(expected)
            nearest = abs(there[:, None] - expected[None]).max(2).min(1)
            assert nearest.max() < 2e-9  # 0.2 mm

    def test_geojson_is_as_rfc_7946_wants_it(self, written):
        content = json.loads(written[1]["geojson"].read_text())
        assert "crs" not in content
        for feature in content["features"]:
            outer, *holes = feature["geometry"]["coordinates"]
            assert shapely.is_ccw(shapely.linearrings(outer))
            assert not any(shapely.is_ccw(shapely.linearrings(hole)) for hole in holes)

    def test_nothing_else_is_left(self, written):
        folder = written[1]["gpkg"].parent
        assert sorted(path.name for path in folder.iterdir()) == ["map.geojson", "map.gpkg"]


class TestShapes:
    def test_simpler_outlines_are_still_shared(self, tmp_path):
        path, out = draw_map(tmp_path), {"gpkg": tmp_path / "map.gpkg"}
        write_polygons(path, None, CLASSES, out)
        plain, table, _ = read(out["gpkg"])
        write_polygons(path, None, CLASSES, out, simplify=1.5)
        simple, same, _ = read(out["gpkg"])
        assert len(simple) == len(plain) and shapely.coverage_is_valid(simple) and shapely.is_valid(simple).all()
        assert shapely.get_num_coordinates(simple).sum() < 0.6 * shapely.get_num_coordinates(plain).sum()
        moved = shapely.area(shapely.symmetric_difference(plain, simple)).sum()
        assert 0 < moved < 0.2 * shapely.area(plain).sum()
        for name in ("class_id", "pixels", "area_m2"):
            np.testing.assert_array_equal(same[name], table[name])

    def test_small_polygons_are_left_out(self, tmp_path):
        path, out = draw_map(tmp_path), {"gpkg": tmp_path / "map.gpkg"}
        write_polygons(path, None, CLASSES, out)
        areas = read(out["gpkg"])[1]["area_m2"]
        write_polygons(path, None, CLASSES, out, min_area=950.0)
        np.testing.assert_array_equal(read(out["gpkg"])[1]["area_m2"], areas[areas >= 950])
        assert 0 < (areas < 950).sum() < len(areas)
        bare = draw_map(tmp_path / "bare", Drawing(crs=None, transform=Affine.identity()))
        with pytest.raises(DataError, match=r"no area. Leave out min_area"):
            write_polygons(bare, None, CLASSES, out, min_area=950.0)


class TestCases:
    def test_without_confidence_there_is_none(self, tmp_path):
        write_polygons(draw_map(tmp_path), None, CLASSES, {"gpkg": tmp_path / "map.gpkg"})
        table = read(tmp_path / "map.gpkg")[1]
        assert len(table["confidence"]) and np.isnan(table["confidence"]).all()

    def test_255_is_no_class_even_where_no_nodata_is_named(self, tmp_path):
        write_polygons(draw_map(tmp_path, nodata=None), None, CLASSES, {"gpkg": tmp_path / "map.gpkg"})
        pixels = read(tmp_path / "map.gpkg")[1]["pixels"]
        assert pixels.sum() == (~DRAWINGS["plain"].invalid()).sum()

    def test_a_map_of_nothing_makes_files_without_features(self, tmp_path):
        path = write(tmp_path / "map.tif", np.full((70, 53), 255, np.uint8), Drawing(), nodata=255)
        outputs = {"gpkg": tmp_path / "map.gpkg", "geojson": tmp_path / "map.geojson"}
        write_polygons(path, None, CLASSES, outputs, block=20)
        for output in outputs.values():
            assert len(read(output)[0]) == 0
        assert list(read(outputs["gpkg"])[1]) == ["class_id", "class", "pixels", "area_m2", "confidence"]
        assert json.loads(outputs["geojson"].read_text())["features"] == []

    def test_without_crs_a_geopackage_has_pixel_coordinates(self, tmp_path):
        drawing = Drawing(crs=None, transform=Affine.identity(), collar=6)
        write_polygons(draw_map(tmp_path, drawing), None, CLASSES, {"gpkg": tmp_path / "map.gpkg"})
        polygons, table, crs = read(tmp_path / "map.gpkg")
        assert crs is None or "ndefined" in crs
        assert shapely.total_bounds(polygons).tolist() == [6, 0, 53, 70]
        assert np.isnan(table["area_m2"]).all()
        np.testing.assert_array_equal(shapely.area(polygons), table["pixels"])

    def test_without_crs_there_is_no_geojson(self, tmp_path):
        drawing = Drawing(crs=None, transform=Affine.identity())
        with pytest.raises(DataError, match=r"no coordinate reference system.*\n.*GeoPackage"):
            write_polygons(draw_map(tmp_path, drawing), None, CLASSES, {"geojson": tmp_path / "map.geojson"})

    def test_across_the_date_line_it_is_divided(self, tmp_path):
        drawing = Drawing(crs="EPSG:32601", transform=Affine(1000, 0, 320_000, 0, -1000, 7_000_000), size=(20, 60))
        path = write(tmp_path / "map.tif", np.zeros((20, 60), np.uint8), drawing, nodata=255)
        write_polygons(path, None, CLASSES, {"geojson": tmp_path / "map.geojson"})
        (feature,) = json.loads((tmp_path / "map.geojson").read_text())["features"]
        west, south, east, north = shape(feature["geometry"]).bounds
        assert (feature["geometry"]["type"], west, east) == ("MultiPolygon", -180, 180) and north - south < 1

    def test_files_are_replaced(self, tmp_path):
        output = tmp_path / "map.gpkg"
        output.write_bytes(b"old")
        for _ in range(2):
            write_polygons(draw_map(tmp_path), None, CLASSES, {"gpkg": output})
            assert read(output)[1]["pixels"].sum() == (~DRAWINGS["plain"].invalid()).sum()

    def test_a_class_without_a_name(self, tmp_path):
        with pytest.raises(DataError, match="holds the value 3, but its classes have the values 0, 1, 2"):
            write_polygons(draw_map(tmp_path), None, CLASSES[:3], {"gpkg": tmp_path / "map.gpkg"})
        assert not (tmp_path / "map.gpkg").exists()

    def test_confidence_on_another_grid(self, tmp_path):
        path = draw_confidence(tmp_path, DRAWINGS["rotated"])
        with pytest.raises(DataError, match="not on the grid"):
            write_polygons(draw_map(tmp_path), path, CLASSES, {"gpkg": tmp_path / "map.gpkg"})

    def test_a_map_that_is_none(self, tmp_path):
        (tmp_path / "map.tif").write_bytes(b"hello")
        with pytest.raises(DataError, match="cannot be read"):
            write_polygons(tmp_path / "map.tif", None, CLASSES, {"gpkg": tmp_path / "map.gpkg"})

    @pytest.mark.parametrize("kind", ["gpkg", "geojson"])
    def test_where_nothing_can_be_written(self, tmp_path, kind):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"cannot be written: .*Choose another --output"):
            write_polygons(draw_map(tmp_path), None, CLASSES, {kind: tmp_path / "file" / "map"})
