"""Folders of scenes: who is labeled, unlabeled or held out, and what is wrong, all at once."""

import numpy as np
import pytest
import rasterio
from drawn_scenes import CLASSES, draw_label, draw_polygons, draw_scene, write
from layout_trees import (
    PICTURE,
    SMALL,
    VALUES,
    SceneTester,
    build,
    pairs,
    picture,
    pixels,
    problems,
    refused,
)

from farcluss.data.splits import read_list, resolve
from farcluss.recipes.model import Data
from farcluss_remote_sensing.layouts import rasters

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def draw_folders(root):
    for seed, name in enumerate(("a", "b", "deep/c", "deep/d")):
        picture(root / f"images/{name}.png", seed)
        if seed in (0, 2):
            pixels(root / f"labels/{name}.tif", seed)
    for split, seed in (("val", 7), ("test", 8)):
        picture(root / f"{split}/images/{seed}.jpg", seed)
        pixels(root / f"{split}/labels/{seed}.png", seed)


HELD_OUT = {
    "val_images": "val/images",
    "val_labels": "val/labels",
    "test_images": "test/images",
    "test_labels": "test/labels",
}


class TestRasters(SceneTester):
    dataset = rasters
    options = HELD_OUT
    splits = ("train", "val", "test")
    draw = staticmethod(draw_folders)


def test_folders(tmp_path):
    draw_folders(tmp_path)
    data = build(rasters, tmp_path, **HELD_OUT)
    assert pairs(data) == {
        "a": ("images/a.png", "labels/a.tif"),
        "b": ("images/b.png", None),
        "deep/c": ("images/deep/c.png", "labels/deep/c.tif"),
        "deep/d": ("images/deep/d.png", None),
    }
    assert pairs(data, "val") == {"7": ("val/images/7.jpg", "val/labels/7.png")}
    assert pairs(data, "test") == {"8": ("test/images/8.jpg", "test/labels/8.png")}
    for item in data.items("train"):
        sample, drawing = data.read(item), PICTURE.but(seed="a b deep/c deep/d".split().index(item.id))
        np.testing.assert_allclose(sample.image, drawing.values() / 255, rtol=1e-6)
        assert sample.mask is None if item.mask is None else np.array_equal(sample.mask, drawing.classes())


def test_without_folders_of_its_own_there_is_no_such_split(tmp_path):
    draw_folders(tmp_path)
    assert "no split 'val'; it has train" in refused(build(rasters, tmp_path).items, "val")


def test_scenes_of_one_name_are_called_by_their_paths(tmp_path):
    for folder, seeds in (("images", (0, 1)), ("val/images", (1, 2))):
        for seed in seeds:
            picture(tmp_path / folder / f"{seed}.png", seed)
            pixels(tmp_path / folder.replace("images", "labels") / f"{seed}.png", seed)
    data = build(rasters, tmp_path, val_images="val/images", val_labels="val/labels")
    assert pairs(data) == {"0": ("images/0.png", "labels/0.png"), "images/1": ("images/1.png", "labels/1.png")}
    assert pairs(data, "val") == {
        "val/images/1": ("val/images/1.png", "val/labels/1.png"),
        "2": ("val/images/2.png", "val/labels/2.png"),
    }


def test_a_split_below_the_training_images(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        picture(tmp_path / f"images/{name}.png")
        pixels(tmp_path / f"labels/{name}.png")
    data = build(rasters, tmp_path, val_images="images/val")
    assert pairs(data) == {f"train/{n}": (f"images/train/{n}.png", f"labels/train/{n}.png") for n in "ab"}
    assert pairs(data, "val") == {"c": ("images/val/c.png", "labels/val/c.png")}


def test_globs_and_patterns(tmp_path):
    """Folders as of a data set of city tiles: the same file names in every tile, blanks in folders."""
    for tile in (1, 2):
        picture(tmp_path / f"some set/Tile {tile}/images/part_1.jpg", tile)
        pixels(tmp_path / f"some set/Tile {tile}/masks/part_1.png", tile)
    for images in ("*/Tile */images", "some set/*/images/*.jpg"):
        for labels in ("{up}/masks/{stem}", "{up}/masks/{stem}.png"):
            data = build(rasters, tmp_path, images=images, labels=labels)
            assert [own[1:] for own in pairs(data).values()] == [
                (f"some set/Tile {tile}/masks/part_1.png",) for tile in (1, 2)
            ]
    assert list(pairs(data)) == ["Tile 1/images/part_1", "Tile 2/images/part_1"]
    assert "may hold {stem}, {dir} and {up} only" in refused(build, rasters, tmp_path, images=images, labels="{x}")


@pytest.mark.parametrize(
    ("image", "label", "options"),
    [
        ("train/1_sat.jpg", "train/1_mask.png", {"images": "train/*_sat.jpg", "labels": "{dir}/{stem}_mask",
                                                "image_suffix": "_sat"}),
        ("all/1.tif", "all/1_label.tif", {"images": "all", "labels": "{dir}/{stem}_label"}),
        ("images/1_img.png", "labels/1.png", {"image_suffix": "_img"}),
    ],
)  # fmt: skip
def test_names_with_suffixes(tmp_path, image, label, options):
    picture(tmp_path / image)
    pixels(tmp_path / label)
    found = pairs(build(rasters, tmp_path, **options))
    assert list(found.values()) == [(image, label)]


def test_colors_of_palettes_count_and_not_their_order(tmp_path):
    """Two masks of one content: one in colors, one by a palette in another order."""
    colors = np.array([(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58)], np.uint8)
    classes = dict(zip(CLASSES, ("#3C1098", "#8429F6", "#6EC1E4", "#FEDD3A"), strict=True))
    picture(tmp_path / "images/rgb.jpg")
    picture(tmp_path / "images/palette.jpg")
    drawn = PICTURE.classes()
    write(tmp_path / "labels/rgb.png", np.moveaxis(colors[drawn], 2, 0), PICTURE, driver="PNG")
    order = np.array([2, 0, 3, 1], np.uint8)
    with rasterio.open(tmp_path / "labels/palette.png", "w", driver="PNG", width=20, height=24, count=1,
                       dtype="uint8") as file:  # fmt: skip
        file.write(order[drawn], 1)
        file.write_colormap(1, {int(order[k]): (*map(int, color), 255) for k, color in enumerate(colors)})
    data = build(rasters, tmp_path, classes=classes)
    for item in data.items("train"):
        np.testing.assert_array_equal(data.read(item).mask, drawn)


class TestPolygons:
    @pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp"])
    def test_are_labels_by_their_name(self, tmp_path, suffix):
        draw_scene(tmp_path / "images/a.tif", SMALL)
        draw_polygons(tmp_path / f"labels/a.{suffix}", SMALL)
        data = build(rasters, tmp_path, field="class", classes=list(CLASSES), outside="town")
        np.testing.assert_array_equal(data.read(data.items("train")[0]).mask, SMALL.classes())

    def test_of_pixels_and_polygons_neither_is_chosen(self, tmp_path):
        for name in ("a", "b"):
            draw_scene(tmp_path / f"images/{name}.tif", SMALL)
            draw_label(tmp_path / f"labels/{name}.tif", SMALL)
        draw_polygons(tmp_path / "labels/a.geojson", SMALL)
        dataset = build(rasters, tmp_path, data={"on_error": "skip"})
        problems(dataset, ("labels/a.geojson", "labels/a.tif"))
        assert pairs(dataset) == {"b": ("images/b.tif", "labels/b.tif")}


@pytest.mark.parametrize(("labels", "own"), [("labels/{stem}_gt", "labels"), ("{dir}/{stem}_gt", "images")])
def test_what_lies_in_folders_of_scenes_is_used_or_said(tmp_path, labels, own):
    for name in ("a", "b"):
        draw_scene(tmp_path / f"images/{name}.TIF", SMALL)
    for name in ("a", "B"):
        draw_label(tmp_path / f"{own}/{name}_gt.TIF", SMALL)
    for name in ("images/a.tfw", "images/a.TIF.ovr", "images/d.nc", "images/.x/e.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    dataset = build(rasters, tmp_path, labels=labels)
    items = dataset.items("train")
    assert [(item.id, bool(item.mask)) for item in items] == [("a", True), ("b", False)]
    passed = {str(entry.path.relative_to(tmp_path)): entry.reason.value for entry in dataset.account(items).passed}
    among = {"images/a_gt.TIF": "mask"} if own == "images" else {}
    assert passed == {"images/d.nc": "unread", f"{own}/B_gt.TIF": "unowned"} | among


# A file per band.


def draw_bands(root, names=("one", "deep/two"), ends=("_B02", "_B03", "_B04")):
    for seed, name in enumerate(names):
        drawing = SMALL.but(seed=seed)
        for end, band in zip(ends, drawing.values(), strict=True):
            write(root / f"images/{name}{end}.tif", band, drawing)
        if seed == 0:
            draw_label(root / f"labels/{name}.tif", drawing)


class TestBandFiles(SceneTester):
    dataset = rasters
    options = {"band_files": ["_B02", "_B03", "_B04"]}
    splits = ("train",)

    @staticmethod
    def draw(root):
        draw_bands(root)


@pytest.mark.parametrize("joint", ["_B", "-B", "/B"])
def test_bands_in_files(tmp_path, joint):
    draw_bands(tmp_path, ends=[f"{joint}0{number}" for number in (2, 3, 4)])
    write(tmp_path / f"images/one{joint}08.tif", SMALL.values()[0], SMALL)
    data = build(rasters, tmp_path, band_files=["B04", "B02", "B03"])
    one, two = (tuple(f"images/{name}{joint}0{band}.tif" for band in (4, 2, 3)) for name in ("one", "deep/two"))
    assert pairs(data) == {"deep/two": (*two, None), "one": (*one, "labels/one.tif")}
    sample = data.read(data.parse("one"))
    np.testing.assert_allclose(sample.image, SMALL.values()[[2, 0, 1]] / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, SMALL.classes())


def test_bands_that_are_missing_or_there_twice(tmp_path):
    draw_bands(tmp_path)
    (tmp_path / "images/one_B03.tif").unlink()
    write(tmp_path / "images/deep/two_B02.png", SMALL.values()[0], PICTURE)
    data = build(rasters, tmp_path, band_files=["_B02", "_B03", "_B04"], data={"on_error": "skip"})
    problems(data, ("images/one", "no file that ends in _B03"), ("deep/two", "two files for _B02"))
    assert data.items("train") == []
    assert "Check data.layout.band_files" in refused(build, rasters, tmp_path, band_files=["_X1"])


def test_weights_know_the_files_of_the_bands(tmp_path):
    draw_bands(tmp_path)
    options = {"band_files": ["_B02", "_B03", "_B04"], "scaling": "scale"}
    section = {"channels": 3, "classes": VALUES, "mean": 0.0, "std": 1.0, "layout": {"name": "rasters", **options}}
    data = rasters(Data(root=tmp_path, **section), **options)
    carried = data.carried.layout
    assert (carried.name, carried.options.items() >= options.items()) == ("rasters", True)


def test_a_virtual_file_stacks_bands(tmp_path):
    draw_bands(tmp_path / "raw", ("x",))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">../raw/images/x_B0{number + 1}.tif</SourceFilename>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number in (1, 2, 3)
    )
    place = ", ".join(map(str, SMALL.transform.to_gdal()))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x.vrt").write_text(
        f'<VRTDataset rasterXSize="20" rasterYSize="24"><SRS>{SMALL.crs}</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    draw_polygons(tmp_path / "labels/x.gpkg", SMALL)
    data = build(rasters, tmp_path, field="class")
    sample = data.read(data.items("train")[0])
    np.testing.assert_allclose(sample.image, SMALL.values() / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, SMALL.classes())


def test_folders_that_are_wrong(tmp_path):
    assert "There are no scenes in" in refused(build, rasters, tmp_path)
    assert "is not a folder" in refused(build, rasters, tmp_path / "none")
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "images/b.jpg")
    data = build(rasters, tmp_path, data={"on_error": "skip"})
    problems(data, ("a.jpg", "a.png", "have the same name"))
    assert list(pairs(data)) == ["b"]


# Lists.


class TestLists:
    @pytest.mark.parametrize(
        "line",
        [
            "deep/c",
            "deep/c.png",
            "images/deep/c.png",
            "/images/deep/c.png",
            "./images/deep/c",
            "images/deep/c.png labels/deep/c.tif",
            "images/deep/c.png\tlabels/deep/c.tif",
            "{root}/images/deep/c.png",
            "  deep/c  ",
        ],
    )
    def test_lines_that_name_a_scene(self, tmp_path, line):
        draw_folders(tmp_path)
        data = build(rasters, tmp_path)
        assert data.parse(line.format(root=tmp_path)) == data.items("train")[2]

    def test_a_label_that_is_nowhere_is_no_other(self, tmp_path):
        draw_folders(tmp_path)
        text = refused(build(rasters, tmp_path).parse, "images/deep/c.png labels/deep/nowhere.tif")
        assert "labels/deep/nowhere.tif does not exist" in text

    def test_a_part_of_a_scene_by_its_path(self, tmp_path):
        draw_folders(tmp_path)
        item = build(rasters, tmp_path).parse("images/a.png[2:9,3:20]")
        assert item.id == "a[2:9,3:20]" and item.mask == f"{tmp_path}/labels/a.tif[2:9,3:20]"

    def test_a_list_decides_which_label(self, tmp_path):
        draw_folders(tmp_path)
        pixels(tmp_path / "other/a.tif", 9)
        data = build(rasters, tmp_path)
        item = data.parse("images/a.png other/a.tif")
        np.testing.assert_array_equal(data.read(item).mask, PICTURE.but(seed=9).classes())
        np.testing.assert_array_equal(data.read(data.parse("a")).mask, PICTURE.classes())
        assert data.find(item)[0].label == str(tmp_path / "other/a.tif")
        bare = data.parse("images/b.png other/a.tif")
        np.testing.assert_array_equal(data.read(bare).mask, PICTURE.but(seed=9).classes())

    def test_unlabeled_lists_may_name_labels_that_are_nowhere(self, tmp_path):
        draw_folders(tmp_path)
        (tmp_path / "l.txt").write_text("images/a.png labels/a.tif\n")
        (tmp_path / "u.txt").write_text("images/b.png labels/b.tif\nimages/deep/d.png labels/deep/d.tif\n")
        lists = {"labeled": "l.txt", "unlabeled": "u.txt", "val": "none"}
        data = build(rasters, tmp_path, data=lists)
        splits = resolve(data, data.data)
        assert [item.id for item in splits.labeled] == ["a"]
        assert [(item.id, item.mask) for item in splits.unlabeled] == [("b", None), ("deep/d", None)]
        data = build(rasters, tmp_path, data={**lists, "labeled": "u.txt", "unlabeled": "none"})
        assert "u.txt, line 1: the label " in refused(resolve, data, data.data)

    def test_a_name_that_no_scene_has(self, tmp_path):
        draw_folders(tmp_path)
        (tmp_path / "l.txt").write_text("a\nimages/x.png\n")
        text = refused(read_list, tmp_path / "l.txt", build(rasters, tmp_path))
        assert "line 2" in text and "'images/x.png' is not a scene" in text
