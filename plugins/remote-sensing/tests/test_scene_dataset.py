"""Scenes as a data set: windows, lists, groups, counts."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from drawn_scenes import CLASSES, Drawing, draw_label, draw_scene, draw_tree, write
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from farcluss.data.base import IGNORE, read_sample
from farcluss.data.splits import read_list, resolve
from farcluss.errors import DataError, RecipeError
from farcluss.recipes.model import Data
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.layouts import rasters

COLLAR = Drawing(nodata=0, collar=17)
VALUES = dict(zip(CLASSES, range(1, 5), strict=True))


def section(root, **changes):
    facts = {"root": root, "channels": 5, "mean": 0.0, "std": 1.0, "classes": VALUES, "ignore_index": 0}
    return Data(**facts | changes)


def dataset(root, window=30, changes=None, **options):
    return rasters(section(root, **changes or {}), scaling="scale", factor=10_000.0, window=window, **options)


@pytest.fixture
def tree(tmp_path):
    return draw_tree(tmp_path / "tree", COLLAR)


class TestWindows:
    @pytest.mark.parametrize("side", [1024, 70, 53, 30, 7])
    def test_windows_cover_each_pixel_of_a_scene_once(self, tree, side):
        data = dataset(tree, side, min_valid=0.0)
        seen = np.zeros((4, 70, 53), int)
        for item in data.items("train"):
            scene, (rows, columns) = data.find(item)
            seen[int(scene.id[1:]), rows, columns] += 1
            assert data.size(item) == (rows.stop - rows.start, columns.stop - columns.start)
            assert max(data.size(item)) <= side
        assert (seen == 1).all()

    def test_a_window_reads_what_lies_there(self, tree):
        data = dataset(tree)
        for item in data.items("train"):
            scene, (rows, columns) = data.find(item)
            drawing = COLLAR.but(seed=int(scene.id[1:]))
            image, mask, valid = read_sample(data, item)
            known = ~drawing.invalid()[rows, columns]
            values = drawing.values()[:, rows, columns] / 10_000
            np.testing.assert_allclose(image, np.where(known, values, 0), rtol=1e-6)
            np.testing.assert_array_equal(known if valid is None else valid, known)
            if scene.label:
                np.testing.assert_array_equal(mask, np.where(known, drawing.classes()[rows, columns], IGNORE))

    def test_part_of_a_window(self, tree):
        data = dataset(tree)
        item = data.items("train")[3]
        part = slice(2, 11), slice(5, 17)
        for whole, cut in zip(data.read(item), data.read(item, part), strict=True):
            np.testing.assert_array_equal(whole[..., *part] if whole is not None else np.ones((9, 12)), 
                                          np.ones((9, 12)) if cut is None else cut)  # fmt: skip

    def test_it_travels_to_other_processes(self, tree):
        data = dataset(tree)
        item = data.items("train")[0]
        data.read(item)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).read(item).image, data.read(item).image)

    def test_unlabeled_windows_without_enough_valid_pixels_are_left_out(self, tree):
        def kept(share):
            return {item.id for item in dataset(tree, min_valid=share).items("train")}

        # The collar takes 17 of the 26 columns of the left windows, the hole a few pixels of one of them.
        lost = kept(0.0) - kept(0.5)
        assert lost == {item for item in kept(0.0) if item.startswith(("s2", "s3")) and item.endswith(",0:26]")}
        assert not kept(0.5) - kept(0.0)

    def test_those_of_a_listed_scene_are_left_out_too(self, tree):
        ends = [item.id for item in dataset(tree).parse_group("s2")]
        assert len(ends) == 3 and not any(end.endswith(",0:26]") for end in ends)
        assert [item.id for item in dataset(tree).parse_group("s2[0:30,0:26]")] == ["s2[0:30,0:26]"]

    @pytest.mark.parametrize("name", ["a[1]", "b c", "zürich ö", "x[0:5,0:5]", "tail ", "a.b", "#hash"])
    def test_a_scene_may_be_called_anything(self, tmp_path, name):
        drawing = Drawing()
        draw_scene(tmp_path / f"images/{name}.tif", drawing)
        draw_label(tmp_path / f"labels/{name}.tif", drawing)
        for side in (30, 1024):
            data = dataset(tmp_path, side)
            for item in data.items("train"):
                window = data.find(item)[1]
                np.testing.assert_array_equal(read_sample(data, item).mask, drawing.classes()[window])


class TestLists:
    def test_a_scene_a_part_and_a_window(self, tree, tmp_path):
        data = dataset(tree)
        path = tmp_path / "list.txt"
        path.write_text("s1\ns0[0:40,10:50]\ns2[5:9,5:9]\n")
        items = read_list(path, data)
        assert [item.id for item in items if item.id.startswith("s0")] == [
            "s0[0:20,10:30]", "s0[0:20,30:50]", "s0[20:40,10:30]", "s0[20:40,30:50]",
        ]  # fmt: skip
        assert sum(item.id.startswith("s1") for item in items) == 6
        assert items[-1].id == "s2[5:9,5:9]" and items[-1].mask is None

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("s9", "not a scene"),
            ("s0[0:400,0:9]", "70 rows and 53 columns"),
            ("s0[9:9,0:9]", "empty window"),
        ],
    )
    def test_lines_that_name_nothing(self, tree, line, text):
        with pytest.raises(DataError, match=text):
            dataset(tree).parse_group(line)

    def test_shares_are_of_scenes(self, tree):
        data = dataset(tree, changes={"labeled": "1/2", "val": "none"})
        splits = resolve(data, data.data)
        scenes = {name: {item.id[:2] for item in getattr(splits, name)} for name in ("labeled", "unlabeled")}
        assert len(scenes["labeled"]) == 1 and len(scenes["unlabeled"]) == 3
        assert not scenes["labeled"] & scenes["unlabeled"]

    def test_parts_of_one_scene_may_be_in_several_sets(self, tree, tmp_path):
        names = {"labeled": "s0[0:30,0:53]", "val": "s0[40:70,0:53]", "unlabeled": "s2"}
        for name, line in names.items():
            (tmp_path / name).write_text(line)
        data = dataset(tree, changes={name: str(tmp_path / name) for name in names})
        splits = resolve(data, data.data)
        assert {item.id[:8] for item in splits.val} == {"s0[40:70"}


class TestCounts:
    def test_they_are_those_of_every_eighth_pixel(self, tree):
        data = dataset(tree, window=1024)
        labeled, unlabeled = data.items("train")[0], data.items("train")[2]
        valid = ~COLLAR.invalid()
        counts = data.pixel_counts(labeled) / 64
        # GDAL may take any pixel of each square of eight: shares agree up to that.
        assert counts[0] == pytest.approx(counts[1:].sum())
        np.testing.assert_allclose(counts[0], valid.sum() / 64, rtol=0.2)
        assert data.pixel_counts(unlabeled)[1:].sum() == 0 and data.pixel_counts(unlabeled)[0] > 0

    def test_overviews_of_labels_are_not_looked_at(self, tmp_path):
        drawing = Drawing(size=(600, 600))
        tree = draw_tree(tmp_path, drawing, 1, 0)
        exact = dataset(tree, window=1024)
        counts = exact.pixel_counts(exact.items("train")[0])
        with rasterio.open(tree / "labels/s0.tif", "r+") as file:
            file.build_overviews([2, 4, 8], Resampling.cubic)
        blurred = dataset(tree, window=1024)
        np.testing.assert_array_equal(blurred.pixel_counts(blurred.items("train")[0]), counts)

    def test_images_are_not_read_where_all_is_valid_and_else_once(self, tmp_path, monkeypatch):
        read, opened = Stack.read, []
        monkeypatch.setattr(Stack, "read", lambda *args: opened.append(args[1]) or read(*args))
        for name, drawing in {"plain": Drawing(), "masked": COLLAR}.items():
            data = dataset(draw_tree(tmp_path / name, drawing))
            for _ in range(2):
                for item in data.items("train"):
                    data.pixel_counts(item)
            assert len(opened) == (0 if name == "plain" else 24)

    def test_windows_that_cannot_be_read_have_no_share_where_they_may_be_skipped(self, tmp_path):
        tree = draw_tree(tmp_path, COLLAR.but(size=(300, 300)))
        for number in (1, 2):
            path = tree / f"images/s{number}.tif"
            os.truncate(path, path.stat().st_size // 2)
        skipping, stopping = (dataset(tree, 100, {"on_error": how}) for how in ("skip", "stop"))
        items = {item.id: item for item in skipping.items("train")}
        for name in ("s1[200:300,200:300]", "s2[200:300,200:300]"):
            assert not skipping.pixel_counts(items[name]).any()
            with pytest.raises(DataError, match="cannot be read"):
                stopping.pixel_counts(items[name])
        assert skipping.pixel_counts(items["s2[0:100,100:200]"])[0]

    def test_labeled_windows_that_serve_as_unlabeled_ones_need_their_share_of_valid_pixels(self, tree):
        data = dataset(tree)
        labeled = [item for item in data.items("train") if item.mask]
        left = [item for item in labeled if item.id.endswith(",0:26]")]
        assert all(data.pixel_counts(item)[0] > 0 for item in labeled)
        bare = {item.id: data.pixel_counts(replace(item, mask=None))[0] for item in labeled}
        assert {name for name, count in bare.items() if count == 0} == {item.id for item in left}

    def test_without_a_mask_labels_are_not_looked_at(self, tree):
        data = dataset(tree, window=1024)
        item = data.items("train")[0]
        assert data.pixel_counts(replace(item, mask=None))[1:].sum() == 0


class TestGrids:
    def test_a_coarser_band_is_interpolated_onto_the_first(self, tmp_path):
        fine = Drawing(size=(60, 48), bands=1, dtype="float32")
        coarse = fine.but(size=(30, 24), seed=3, transform=fine.transform @ Affine.scale(2))
        paths = [write(tmp_path / f"{n}.tif", each.values(), each) for n, each in enumerate((fine, coarse))]
        found, valid = Stack(tuple(map(str, paths)), (), True).read((slice(10, 50), slice(8, 40)))
        expected = np.zeros((60, 48), np.float32)
        place = {"src_crs": fine.crs, "dst_crs": fine.crs, "resampling": Resampling.bilinear}
        reproject(coarse.values()[0], expected, src_transform=coarse.transform, dst_transform=fine.transform, **place)
        np.testing.assert_array_equal(found[0], fine.values()[0, 10:50, 8:40])
        np.testing.assert_allclose(found[1], expected[10:50, 8:40], rtol=1e-5)
        assert valid.all()

    def test_a_coarser_label_is_that_of_the_nearest_pixel(self, tmp_path):
        fine = Drawing(size=(60, 48))
        tree = draw_tree(tmp_path / "tree", fine, 1, 0)
        coarse = fine.but(size=(30, 24), seed=5, transform=fine.transform @ Affine.scale(2))
        draw_label(tree / "labels/s0.tif", coarse)
        data = dataset(tree, window=1024, warp=True)
        mask = data.read(data.items("train")[0]).mask
        np.testing.assert_array_equal(mask, coarse.classes().repeat(2, 0).repeat(2, 1))


class TestPalette:
    def test_no_class_is_black_as_nodata_is(self, tree):
        palette = dataset(tree).palette
        assert len(set(palette)) == 4 and (0, 0, 0) not in palette

    def test_the_recipe_has_the_last_word(self, tree):
        colors = ["#000000", "#112233", "#445566", "#778899"]
        assert dataset(tree, changes={"palette": colors}).palette[:2] == ((0, 0, 0), (17, 34, 51))


class TestCarried:
    def test_weights_know_the_statistics_and_the_classes(self, tree):
        stats = [{"dtype": "uint16", "mean": 1.0 * n, "std": 2.0} for n in range(5)]
        data = rasters(section(tree, classes=VALUES), stats=stats)
        carried = data.carried
        assert carried.layout.options["stats"] == stats
        defaults = {"scaling": "zscore", "factor": 10_000.0, "bands": [], "warp": False, "window": 1024}
        assert carried.layout.options.items() >= defaults.items()  # they may be others one day
        assert carried.classes == {name: [value] for name, value in VALUES.items()}
        assert carried.ignore_index == [0]
        assert Data.model_validate(carried.model_dump(mode="json")) == carried


class TestRefusals:
    def test_statistics_that_are_missing(self, tree):
        with pytest.raises(RecipeError, match=r"needs statistics.*farcluss rs stats"):
            rasters(section(tree))

    def test_imagenet_for_other_than_eight_bits(self, tmp_path):
        tree = draw_tree(tmp_path, Drawing(bands=3))
        with pytest.raises(DataError, match=r"uint16.*8-bit colors"):
            rasters(section(tree, channels=3), scaling="imagenet").items("train")

    def test_other_numbers_of_bands(self, tree):
        with pytest.raises(DataError, match=r"and \d more have 5 channels, but data.channels is 4.*data.layout.bands"):
            dataset(tree, changes={"channels": 4}).items("train")

    def test_complex_values(self, tmp_path):
        write(tmp_path / "images/s.tif", Drawing().values().astype("complex64"), Drawing())
        with pytest.raises(DataError, match=r"values are complex"):
            dataset(tmp_path).items("train")

    def test_division_by_255_of_other_than_eight_bits(self, tree):
        with pytest.raises(DataError, match=r"uint16.*255"):
            rasters(section(tree), scaling="scale", factor=255.0).items("train")

    def test_bands_of_another_type_than_the_statistics_are_of(self, tree):
        stats = [{"dtype": "uint8", "mean": 1.0, "std": 2.0}] * 5
        with pytest.raises(DataError, match=r"band 1 is uint16, but training and statistics are of uint8"):
            rasters(section(tree), stats=stats).items("train")
