"""Tables of scenes: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import numpy as np
import pytest
from drawn_scenes import draw_label, draw_polygons, draw_scene, write
from layout_trees import (
    SMALL,
    SceneTester,
    build,
    groups,
    pairs,
    problems,
    refused,
)
from rasterio.transform import Affine

from farcluss.data.base import IGNORE
from farcluss_remote_sensing.layouts import scenes

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TABLE = """image,label,group,split
s/a.tif,s/a_label.tif,north,
s/b.tif,s/b.geojson,north,train
s/c.tif,,,
s/e_1.tif;s/e_2.tif,s/all.gpkg:e,west,val
s/f.tif,s/f_label.tif,,test
"""


def aside(seed):
    """Scenes side by side, so that no two show the same ground."""
    return SMALL.but(seed=seed, transform=Affine.translation(2000.0 * seed, 0) @ SMALL.transform)


def draw_table(root, text=TABLE):
    for seed, name in enumerate("abcdef"):
        drawing = aside(seed)
        if name == "e":
            write(root / "s/e_1.tif", drawing.values()[:2], drawing)
            write(root / "s/e_2.tif", drawing.values()[2:], drawing)
            draw_polygons(root / "s/all.gpkg", drawing)
            rename_layer(root / "s/all.gpkg", "e")
        else:
            draw_scene(root / f"s/{name}.tif", drawing)
        if name in "af":
            draw_label(root / f"s/{name}_label.tif", drawing)
    draw_polygons(root / "s/b.geojson", aside(1))
    (root / "scenes.csv").write_text(text, encoding="utf-8")


def rename_layer(path, name):
    """Give the only layer of a GeoPackage another name, and a second layer beside it."""
    import pyogrio.raw

    facts, _, geometry, values = pyogrio.raw.read(path)
    path.unlink()
    for layer, count in (("other", 1), (name, len(geometry))):
        more = {"geometry_type": "Polygon", "crs": facts["crs"], "append": layer == name}
        columns = [each[:count] for each in values]
        pyogrio.raw.write(path, geometry[:count], columns, facts["fields"], layer=layer, **more)


class TestScenes(SceneTester):
    dataset = scenes
    options = {"field": "class"}
    splits = ("train", "val", "test")
    draw = staticmethod(draw_table)


def test_a_table(tmp_path):
    draw_table(tmp_path)
    data = build(scenes, tmp_path, field="class")
    assert pairs(data) == {
        "s/a": ("s/a.tif", "s/a_label.tif"),
        "s/b": ("s/b.tif", "s/b.geojson"),
        "s/c": ("s/c.tif", None),
    }
    assert groups(data) == {"s/a": "north", "s/b": "north", "s/c": "s/c"}
    assert pairs(data, "val") == {"s/e_1": ("s/e_1.tif", "s/e_2.tif", "s/all.gpkg:e")}
    assert pairs(data, "test") == {"s/f": ("s/f.tif", "s/f_label.tif")}
    assert data.findings() == []
    for split, name, seed in (("train", "s/a", 0), ("train", "s/b", 1), ("val", "s/e_1", 4), ("test", "s/f", 5)):
        sample = data.read(next(item for item in data.items(split) if item.id == name))
        np.testing.assert_allclose(sample.image, SMALL.but(seed=seed).values() / 255, rtol=1e-6)
        np.testing.assert_array_equal(sample.mask, SMALL.but(seed=seed).classes())


def test_a_table_that_only_names_images(tmp_path):
    draw_table(tmp_path, "\ufeffimage\ns/a.tif\n\ns/c.tif\n")
    assert pairs(build(scenes, tmp_path)) == {"s/a": ("s/a.tif", None), "s/c": ("s/c.tif", None)}


def test_a_table_lists_every_problem(tmp_path):
    rows = [
        "image,label,group,split,date",
        "s/a.tif,s/a_label.tif,north,,",
        "s/x.tif,,,,",
        ",s/a_label.tif,,,",
        "s/b.tif,s/gone.gpkg:fields,,,",
        "s/b.tif,,,training,",
        "s/c.tif,,,val,",
        "s/a.tif,,,,",
        "s/f.tif,s/f_label.tif,north,val,",
        "s/b.tif,s/b.geojson,,,1,2,3",
        "s/c.tif,,,,",
    ]
    draw_table(tmp_path, "\n".join(rows))
    data = build(scenes, tmp_path, data={"on_error": "skip"}, field="class")
    problems(
        data, ("line 1:", "unknown column 'date'"), ("line 2:", "group north is in both train and val"),
        ("line 3:", "s/x.tif does not exist"), ("line 4:", "column image is empty"),
        ("line 5:", "s/gone.gpkg does not exist"),
        ("line 6:", "unknown split 'training'"), ("line 6:", "scene s/b is already in line 5"),
        ("line 7:", "a scene of val needs a label"), ("line 8:", "scene s/a is already in line 2"),
        ("line 10:", "more values than columns"), ("line 10:", "already in line 5"), ("line 11:", "already in line 7"),
    )  # fmt: skip
    assert pairs(data) == {} and list(pairs(data, "val")) == ["s/f"]
    text = refused(build(scenes, tmp_path, field="class").items, "train")
    assert "scenes.csv, line 1" in text and "And 11 more" in text


def test_a_group_in_two_splits_is_refused(tmp_path):
    draw_table(tmp_path, TABLE.replace("west,val", "north,val"))
    data = build(scenes, tmp_path, field="class")
    text = refused(data.items, "train")
    assert "line 2: group north is in both train and val" in text and "And 1 more" in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("picture,label\na.tif,\n", "has the columns picture, label.\nIt needs image"),
        ("", "has the columns (none)"),
        (None, "does not exist. Check data.root and data.layout.file"),
    ],
)
def test_tables_that_are_none(tmp_path, text, word):
    if text is not None:
        (tmp_path / "scenes.csv").write_text(text)
    assert word in refused(build, scenes, tmp_path)


def test_a_label_says_nothing_outside_its_polygons(tmp_path):
    draw_table(tmp_path)
    data = build(scenes, tmp_path, field="class")
    layer = data.parse("s/e_1 s/all.gpkg:other")
    mask = data.read(layer).mask
    assert (mask == IGNORE).any() and len(np.unique(mask)) == 2
