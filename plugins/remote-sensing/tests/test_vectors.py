"""Polygons as labels, against the pixels that they were drawn from and against points in polygons."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from drawn_scenes import CLASSES, GEOGRAPHIC, ROTATED, UTM, Drawing, draw_polygons, draw_scene
from rasterio.transform import Affine
from rasterio.warp import transform

from farcluss.data.base import IGNORE
from farcluss.data.masks import MaskMap, build_mask_map
from farcluss.errors import DataError
from farcluss.recipes.model import Data
from farcluss_remote_sensing.files import Grid, read_header
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.vectors import Rules, class_of, rasterize

DRAWINGS = {
    "plain": Drawing(),
    "rotated": Drawing(transform=ROTATED),
    "geographic": Drawing(crs="EPSG:4326", transform=GEOGRAPHIC),
    "picture": Drawing(crs=None, transform=Affine.identity()),
}
WHOLE = slice(0, 70), slice(0, 53)


def masks(classes=CLASSES, **changes) -> MaskMap:
    return build_mask_map(Data(classes=classes if isinstance(classes, dict) else list(classes), **changes), {})


def grid_of(drawing: Drawing) -> Grid:
    from rasterio.crs import CRS

    crs = CRS.from_user_input(drawing.crs).to_wkt() if drawing.crs else ""
    return Grid(*drawing.size, tuple(drawing.transform)[:6], crs)


def save(path, shapes, crs=UTM, layer=None, append=False, **columns):
    """Write geometries with attributes."""
    geometry = np.array([shapely.to_wkb(shape) for shape in shapes], object)
    kind = shapes[0].geom_type
    values = [
        np.array(each, object) if isinstance(each[0], str | None) else np.array(each) for each in columns.values()
    ]
    pyogrio.raw.write(path, geometry, values, list(columns), geometry_type=kind, crs=crs, layer=layer, append=append)
    return str(path)


def square(drawing: Drawing, rows, columns):
    """A box of pixels as a polygon in coordinates of a drawing."""
    points = [(columns[0], rows[0]), (columns[1], rows[0]), (columns[1], rows[1]), (columns[0], rows[1])]
    return shapely.Polygon([drawing.transform @ point for point in points])


PLAIN = Drawing()


def drawn(path, drawing=PLAIN, window=WHOLE, shrink=1, *, layer="", classes=None, **rules):
    return rasterize(path, layer, grid_of(drawing), window, shrink, classes or masks(), Rules(**rules))


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("field", ["class", "code"])
class TestPixels:
    def test_polygons_along_pixels_give_these_pixels(self, tmp_path, name, field):
        drawing = DRAWINGS[name]
        path = str(draw_polygons(tmp_path / "label.gpkg", drawing))
        np.testing.assert_array_equal(drawn(path, drawing, field=field), drawing.classes())

    def test_a_window_is_a_part_of_the_whole(self, tmp_path, name, field):
        drawing = DRAWINGS[name]
        path = str(draw_polygons(tmp_path / "label.gpkg", drawing))
        window = slice(11, 62), slice(7, 30)
        np.testing.assert_array_equal(drawn(path, drawing, window, field=field), drawing.classes()[window])

    def test_every_so_manieth_pixel_is_that_of_a_file_of_pixels(self, tmp_path, name, field):
        from drawn_scenes import write

        drawing = DRAWINGS[name]
        path = str(draw_polygons(tmp_path / "label.gpkg", drawing))
        pixels = str(write(tmp_path / "label.tif", drawing.classes(), drawing))
        reader = LabelReader(masks(), Rules(field))
        for window in (WHOLE, (slice(11, 62), slice(7, 30)), (slice(0, 5), slice(3, 4))):
            by = [reader.read(each, grid_of(drawing), window, 8) for each in (path, pixels)]
            np.testing.assert_array_equal(*by)


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp", "fgb"])
def test_formats(tmp_path, suffix):
    path = str(draw_polygons(tmp_path / f"label.{suffix}"))
    grid = read_header(str(draw_scene(tmp_path / "scene.tif"))).grid
    found = LabelReader(masks(), Rules("class")).read(path, grid, WHOLE)
    np.testing.assert_array_equal(found, Drawing().classes())


class TestCenters:
    """A pixel belongs to a polygon where its center does."""

    @pytest.mark.parametrize("name", ["plain", "rotated", "geographic"])
    @pytest.mark.parametrize("seed", range(4))
    def test_of_any_polygon(self, tmp_path, seed, name):
        drawing, rng = DRAWINGS[name], np.random.default_rng(seed)
        points = shapely.MultiPoint([drawing.transform @ (x, y) for x, y in rng.uniform(-20, 80, (7, 2))])
        hole = shapely.MultiPoint([drawing.transform @ (x, y) for x, y in rng.uniform(15, 40, (4, 2))]).convex_hull
        shape = points.convex_hull.difference(hole)
        path = save(tmp_path / "label.gpkg", [shape], drawing.crs)
        rows, columns = np.mgrid[:70, :53] + 0.5
        x, y = drawing.transform @ (columns, rows)
        inside = shapely.contains_xy(shape, x, y)
        # Rounding to 1/1024 of a pixel may move an edge over a center that is nearer than that.
        edge = shapely.distance(shape.boundary, shapely.points(x, y)) < np.hypot(*drawing.transform[:2]) / 500
        found = drawn(path, drawing)
        assert (found == np.where(inside, 0, IGNORE))[~edge].all()
        assert edge.mean() < 0.05
        window = slice(20, 33), slice(1, 50)
        np.testing.assert_array_equal(drawn(path, drawing, window), found[window])

    def test_of_a_polygon_in_degrees_over_a_scene_in_meters(self, tmp_path):
        drawing = Drawing()
        rows, columns = np.mgrid[:70, :53] + 0.5
        x, y = drawing.transform @ (columns, rows)
        lon, lat = (np.reshape(each, x.shape) for each in transform(UTM, "EPSG:4326", x.ravel(), y.ravel()))
        west, north = lon.min(), lat.max()
        ring = np.array([(0.1, 0.1), (0.9, 0.3), (0.6, 0.55), (0.8, 0.95), (0.2, 0.7)])
        shape = shapely.Polygon([(west + u * np.ptp(lon), north - v * np.ptp(lat)) for u, v in ring])
        path = save(tmp_path / "label.geojson", [shape], "EPSG:4326")
        expected = np.where(shapely.contains_xy(shape, lon, lat), 0, IGNORE)
        assert 0.2 < (expected == 0).mean() < 0.8
        np.testing.assert_array_equal(drawn(path, drawing), expected)

    def test_long_edges_bend_as_their_system_says(self, tmp_path):
        # 100 km at latitude 60: between its corners an edge along a parallel lies hundreds of meters from the chord.
        drawing = Drawing(size=(100, 100), crs="EPSG:32633", transform=Affine(1000, 0, 450_000, 0, -1000, 6_700_000))
        rows, columns = np.mgrid[:100, :100] + 0.5
        x, y = drawing.transform @ (columns, rows)
        lon, lat = (np.reshape(each, x.shape) for each in transform(UTM, "EPSG:4326", x.ravel(), y.ravel()))
        shape = shapely.box(lon.min() - 1, lat.min() - 1, lon.max() + 1, np.median(lat))
        path = save(tmp_path / "label.gpkg", [shape], "EPSG:4326")
        found = drawn(path, drawing, (slice(0, 100), slice(0, 100)))
        np.testing.assert_array_equal(found, np.where(lat < np.median(lat), 0, IGNORE))

    def test_of_polygons_that_reach_around_the_world(self, tmp_path):
        drawing = Drawing()
        edge = transform(UTM, "EPSG:4326", [500_000 + 10 * 21.3], [5_000_000])[0][0]
        shapes = [shapely.box(-180, -90, 180, 90), shapely.box(-180, -90, edge, 90)]
        path = save(tmp_path / "label.gpkg", shapes, "EPSG:4326", code=[0, 1])
        expected = np.repeat([[1, 0]], [21, 32], 1).repeat(70, 0)
        np.testing.assert_array_equal(drawn(path, drawing, field="code"), expected)

    def test_of_what_only_touches_them(self, tmp_path):
        # Along the diagonal, which goes through no center of the pixels beside it.
        line = shapely.LineString([PLAIN.transform @ (0.01, 5.3), PLAIN.transform @ (52.9, 58.2)]).buffer(0.01)
        path = save(tmp_path / "label.gpkg", [line])
        assert (drawn(path) == IGNORE).all()
        found = drawn(path, all_touched=True)
        rows, columns = np.indices((70, 53))
        corners = [PLAIN.transform @ (columns + x, rows + y) for x, y in ((0, 1), (1, 0))]
        expected = shapely.intersects(line, shapely.box(*corners[0], *corners[1]))
        np.testing.assert_array_equal(found == 0, expected)
        np.testing.assert_array_equal(
            drawn(path, window=(slice(9, 40), slice(3, 50)), all_touched=True), found[9:40, 3:50]
        )

    @pytest.mark.parametrize("far", [30, 300], ids=["beyond the scene", "far beyond it"])
    def test_of_a_polygon_whose_edges_cross(self, tmp_path, far):
        drawing = Drawing()
        ring = [(-far, 12), (far + 53, 60), (far + 53, 12), (-far, 60)]
        path = save(tmp_path / "label.gpkg", [shapely.Polygon([drawing.transform @ point for point in ring])])
        rows, columns = np.mgrid[:70, :53] + 0.5
        # Between its two diagonals, left and right of where they cross.
        slope = 48 / (2 * far + 53)
        inside = np.abs(rows - 36) < slope * np.abs(columns - 26.5)
        np.testing.assert_array_equal(drawn(path, drawing) == 0, inside)
        window = slice(30, 42), slice(5, 45)
        np.testing.assert_array_equal(drawn(path, drawing, window) == 0, inside[window])


class TestClasses:
    def test_later_polygons_lie_over_earlier_ones(self, tmp_path):
        shapes = [square(Drawing(), (0, 40), (0, 40)), square(Drawing(), (20, 60), (20, 50))]
        path = save(tmp_path / "label.gpkg", shapes, code=[2, 1])
        expected = np.full((70, 53), IGNORE)
        expected[:40, :40], expected[20:60, 20:50] = 2, 1
        np.testing.assert_array_equal(drawn(path, field="code"), expected)
        np.testing.assert_array_equal(
            drawn(path, field="code", outside="town"), np.where(expected == IGNORE, 3, expected)
        )
        expected[:40, :40] = 2
        np.testing.assert_array_equal(drawn(path, field="code", overlap="class"), expected)

    @pytest.mark.parametrize(("outside", "inside", "rest"), [("", 0, IGNORE), ("water", 1, 0), ("field", 0, 1)])
    def test_without_an_attribute_all_are_of_one_class(self, tmp_path, outside, inside, rest):
        path = save(tmp_path / "label.gpkg", [square(Drawing(), (3, 9), (4, 50))])
        expected = np.full((70, 53), rest)
        expected[3:9, 4:50] = inside
        np.testing.assert_array_equal(drawn(path, outside=outside), expected)

    def test_a_window_without_polygons(self, tmp_path):
        path = save(tmp_path / "label.gpkg", [square(Drawing(), (3, 9), (4, 50))], code=[99])
        found = drawn(path, window=(slice(30, 40), slice(0, 9)), field="code", outside="field")
        assert found.shape == (10, 9) and (found == 1).all()

    def test_a_scene_without_polygons(self, tmp_path):
        far = shapely.box(0, 0, 10, 10)
        path = save(tmp_path / "label.gpkg", [far], code=[99])
        assert (drawn(path, field="code") == IGNORE).all()

    def test_a_layer_by_name(self, tmp_path):
        for layer, rows in (("old", (0, 5)), ("new", (5, 9))):
            path = save(tmp_path / "l.gpkg", [square(Drawing(), rows, (0, 53))], layer=layer, append=layer == "new")
        assert (drawn(path, layer="new")[:, 0] == 0).nonzero()[0].tolist() == [5, 6, 7, 8]
        assert LabelReader(masks()).read(f"{path}:old", grid_of(Drawing()), WHOLE)[:, 0].tolist()[4:6] == [0, IGNORE]

    @pytest.mark.parametrize(
        ("values", "changes", "expected"),
        [
            (["town", " water "], {}, [3, 0]),
            (["30", "10"], {"classes": {"a": [10, 20], "b": 30}}, [1, 0]),
            ([20, 7], {"classes": {"a": [10, 20], "b": 30}, "ignore_index": 7}, [0, IGNORE]),
            ([30.0, 10.0], {"classes": {"a": [10, 20], "b": 30}}, [1, 0]),
            (["b", "a"], {"classes": {"a": "#ff0000", "b": "#00ff00"}}, [1, 0]),
        ],
    )
    def test_by_name_and_by_value(self, values, changes, expected):
        column = np.array(values, object if isinstance(values[0], str) else None)
        assert class_of(column, masks(**changes), "x").tolist() == expected


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "classes", "text"),
        [
            (["swamp"], CLASSES, r"'kind', holds 'swamp'; classes are water.*\n.*data.layout.field"),
            ([17], CLASSES, r"holds the value 17"),
            ([None, "town"], CLASSES, r"is empty for 1 polygon of"),
            ([np.nan, 1.0], CLASSES, r"is empty for 1 polygon of"),
            ([1.5], CLASSES, r"holds fractions"),
            ([1], {"a": "#ff0000", "b": "#00ff00"}, r"holds numbers.*colors"),
        ],
    )
    def test_values_that_no_class_has(self, tmp_path, values, classes, text):
        shapes = [square(Drawing(), (0, 9), (0, 9))] * len(values)
        path = save(tmp_path / "label.gpkg", shapes, kind=values)
        with pytest.raises(DataError, match=text) as caught:
            drawn(path, field="kind", classes=masks(classes))
        assert "label.gpkg" in str(caught.value)

    def test_an_attribute_that_is_not_there(self, tmp_path):
        path = save(tmp_path / "label.gpkg", [square(Drawing(), (0, 9), (0, 9))], kind=[1])
        with pytest.raises(DataError, match=r"no attribute 'class'; it has kind. Set data.layout.field"):
            drawn(path, field="class")

    def test_layers(self, tmp_path):
        for layer in ("old", "new"):
            shapes = [square(Drawing(), (0, 9), (0, 9))]
            path = save(tmp_path / "l.gpkg", shapes, layer=layer, append=layer == "new")
        with pytest.raises(DataError, match=r"has 2 layers \(old, new\); name one: l.gpkg:LAYER"):
            drawn(path)
        with pytest.raises(DataError, match=r"no layer 'x'; it has old, new"):
            drawn(path, layer="x")

    def test_a_coordinate_system_on_one_side_alone(self, tmp_path):
        shapes = [square(Drawing(), (0, 9), (0, 9))]
        with pytest.warns(UserWarning, match="crs"):
            bare = save(tmp_path / "bare.gpkg", shapes, None)
        with pytest.raises(DataError, match=r"bare.gpkg has no coordinate system, but its scene has one.*QGIS"):
            drawn(bare)
        path = save(tmp_path / "label.gpkg", shapes)
        with pytest.raises(
            DataError, match=r"Its scene has no coordinate system, .*label.gpkg has one.*rio edit-info --crs"
        ):
            drawn(path, Drawing(crs=None))

    def test_a_shapefile_without_prj_is_cured_as_it_says(self, tmp_path):
        path = str(draw_polygons(tmp_path / "label.shp"))
        (tmp_path / "label.prj").unlink()
        with pytest.raises(DataError, match=r"Put its .prj beside it") as caught:
            drawn(path, field="class")
        command, _, target = str(caught.value).partition('python -c "')[2].partition('" > ')
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(command.replace("CODE", "32633"))
        Path(target).write_text(said.getvalue())
        np.testing.assert_array_equal(drawn(path, field="class"), Drawing().classes())

    def test_points(self, tmp_path):
        path = save(tmp_path / "label.gpkg", [shapely.Point(*(Drawing().transform @ (5, 5)))])
        with pytest.raises(DataError, match="geometries of type Point; labels are polygons"):
            drawn(path)

    @pytest.mark.parametrize(("content", "text"), [(b"hello", "cannot be read as polygons"), (None, "does not exist")])
    def test_files_that_are_none(self, tmp_path, content, text):
        path = tmp_path / "label.geojson"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=text):
            drawn(str(path))

    def test_a_file_that_breaks_off(self, tmp_path):
        path = save(tmp_path / "label.gpkg", [square(Drawing(), (0, 9), (0, 9))] * 500, code=[1] * 500)
        content = (tmp_path / "label.gpkg").read_bytes()
        (tmp_path / "label.gpkg").write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"label.gpkg cannot be read as polygons"):
            drawn(path)

    def test_a_scene_where_the_system_of_the_polygons_ends(self, tmp_path):
        path = save(tmp_path / "label.gpkg", [shapely.box(0, 0, 9, 9)])
        far = Drawing(crs="EPSG:4326", transform=Affine(1e-3, 0, 105, 0, -1e-3, 0))
        with pytest.raises(DataError, match=r"cannot be transformed.*\n.*ogr2ogr -t_srs"):
            drawn(path, far)


def test_geojson_of_nothing_has_no_attributes_either(tmp_path):
    path = tmp_path / "label.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    assert (drawn(str(path), field="class", outside="field") == 1).all()
