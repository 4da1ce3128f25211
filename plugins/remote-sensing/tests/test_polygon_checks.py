"""What is said of polygons that label nothing, or something else than is drawn."""

import pytest
import shapely
from commandline import cli
from drawn_scenes import Drawing, draw_scene
from scene_recipes import write_recipe
from test_vectors import masks, save, square

from farcluss_remote_sensing.files import read_header
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.polygon_checks import polygon_remarks
from farcluss_remote_sensing.vectors import Rules

PLAIN = Drawing()
LEFT, ALL, RIGHT = (square(PLAIN, (0, 70), columns) for columns in ((0, 26), (0, 53), (26, 53)))
ROWS, COLUMNS = (slice(0, 35), slice(35, 70)), (slice(0, 26), slice(26, 53))
BOW = shapely.Polygon([PLAIN.transform @ point for point in ((3, 3), (40, 60), (40, 3), (3, 60))])
THIN = [square(PLAIN, (row + 0.6, row + 0.9), (0, 53)) for row in range(5)]


@pytest.mark.parametrize(
    ("shapes", "codes", "rules", "words"),
    [
        ([LEFT, RIGHT], [0, 1], {}, []),
        ([LEFT, LEFT, LEFT], [0, 0, 0], {}, []),
        ([LEFT, ALL], [1, 1], {}, []),
        ([LEFT, ALL], [0, 1], {}, ["overlap in 1,820 pixels (in "]),
        ([ALL, LEFT], [0, 1], {}, ["overlap in 1,820 pixels (in "]),
        ([ALL, LEFT], [0, 1], {"overlap": "class"}, []),
        (THIN, [0] * 5, {}, ["5 polygons (in "]),
        (THIN, [0] * 5, {"all_touched": True}, []),
        ([LEFT, RIGHT], [0, 1], {"all_touched": True}, []),
        ([BOW], [0], {}, ["1 polygon (in "]),
        ([square(PLAIN, (60, 90), (40, 99))], [0], {}, []),
    ],
)
def test_a_line_for_each_kind(tmp_path, shapes, codes, rules, words):
    path = save(tmp_path / "label.gpkg", shapes, code=codes)
    grid = read_header(str(draw_scene(tmp_path / "a.tif"))).grid
    places = [(path, grid, (rows, columns)) for rows in ROWS for columns in COLUMNS]
    found = polygon_remarks(LabelReader(masks(), Rules("code", **rules)), places)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text and path in text
    assert polygon_remarks(LabelReader(masks(), Rules("no such field")), places) == []


def test_check_and_split_say_it(tmp_path):
    (tmp_path / "labels").mkdir()
    for number in range(3):
        draw_scene(tmp_path / "images" / f"s{number}.tif", PLAIN)
    for number in range(2):
        save(tmp_path / "labels" / f"s{number}.gpkg", [LEFT, ALL], kind=["water", "field"])
    recipe = write_recipe(tmp_path, ', scaling = "scale", field = "kind"', val="1/2")
    options = ("--set", "data.allow_overlap=true", "--no-step")
    split = cli("rs", "split", recipe, "-o", tmp_path / "lists", "--val", "0.5")
    for result in (cli("check", recipe, *options), split):
        assert "overlap in 3,640 pixels (in 2 label files, the first is " in result.err, result
