"""Packs of scenes: a run from one sees what a run from the files sees."""

import numpy as np
import pytest
from drawn_scenes import CLASSES, Drawing, draw_tree

from farcluss.data.crops import draw_crop
from farcluss.data.splits import resolve
from farcluss.data.weighting import draw_chances
from farcluss.jobs.packing import Packing
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The section of a recipe with lists of scenes, and its data set from files and from a pack."""
    root = draw_tree(tmp_path_factory.mktemp("scenes"), Drawing(nodata=0, collar=17), 3, 2)
    for name, lines in {"labeled": "s0\n", "unlabeled": "s1\ns3\r\ns4\n", "val": "s2[0:70,20:53]\n"}.items():
        (root / f"{name}.txt").write_text(lines)
    layout = {"name": "rasters", "scaling": "scale", "window": 26}
    classes = dict(zip(CLASSES, range(1, 5), strict=True))
    lists = {name: f"{name}.txt" for name in ("labeled", "unlabeled", "val")}
    facts = {"root": root, "layout": layout, "channels": 5, "mean": 0.0, "std": 1.0, "classes": classes}
    data = Data(**facts, ignore_index=0, workers=0, crop=16, draw="balanced", **lists)
    for _ in Packing(data, root / "scenes.h5"):
        pass
    return data, build_dataset(data), build_dataset(data.model_copy(update={"pack": root / "scenes.h5"}))


class TestPack:
    def test_lists_of_scenes_name_the_same_windows(self, pair):
        data, files, pack = pair
        for name in ("labeled", "unlabeled", "val"):
            ids = [[item.id for item in getattr(resolve(one, data), name)] for one in (files, pack)]
            assert ids[0] == ids[1] and len(ids[0]) > 3

    def test_windows_are_drawn_equally_often(self, pair):
        data, *both = pair
        found = [
            draw_chances(one, splits.labeled, splits.unlabeled, data) for one in both for splits in [resolve(one, data)]
        ]
        for files, pack in zip(*found, strict=True):
            np.testing.assert_array_equal(files.shares, pack.shares)

    def test_crops_are_the_same(self, pair):
        data, *both = pair
        splits = [resolve(one, data) for one in both]
        for stream in ("labeled", "unlabeled"):
            for place in range(len(getattr(splits[0], stream))):
                crops = [
                    draw_crop(one, getattr(own, stream)[place], (16, 16), data, np.random.default_rng(place))
                    for one, own in zip(both, splits, strict=True)
                ]
                for files, pack in zip(*crops, strict=True):
                    np.testing.assert_array_equal(files, pack)
