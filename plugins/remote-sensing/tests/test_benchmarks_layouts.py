"""Public data sets: which scene is in which split, what its label values mean, and what is wrong."""

import numpy as np
import pytest
from drawn_scenes import Drawing, draw_scene, write
from layout_trees import PICTURE, SceneTester, array, build, groups, pairs, picture, problems, refused

from farcluss.data.base import IGNORE
from farcluss.data.splits import resolve
from farcluss.plugins.signatures import describe_object
from farcluss_remote_sensing.benchmarks import POTSDAM, VAIHINGEN, change, loveda, potsdam, vaihingen

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RGB = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}


def published(layout, root, **options):
    """A data set with the classes of the layout."""
    return build(layout, root, classes=None, **options)


def colored(path, classes, edge=0):
    """A label in the colors of ISPRS, black in `edge` rows at the top."""
    colors = np.array(list(RGB.values()), np.uint8)[classes]
    colors[:edge] = 0
    return write(path, np.moveaxis(colors, 2, 0), PICTURE)


def six(seed=0):
    """Class indices `(H, W)`, all six."""
    found = np.random.default_rng(seed).integers(0, 6, PICTURE.size)
    found[12, :6] = range(6)
    return found


# LoveDA.


def love(root, *names, test_masks=False):
    for name in names:
        split, area, number = name.split("/")
        picture(root / split / area / f"images_png/{number}.png", int(number))
        if split != "Test" or test_masks:
            array(root / split / area / f"masks_png/{number}.png", (six(int(number)) * 3 % 8).astype(np.uint8))


NAMES = ("Train/Urban/1", "Train/Rural/2", "Train/Rural/3", "Val/Urban/4", "Val/Rural/5", "Test/Urban/6")


class TestLoveda(SceneTester):
    dataset = loveda
    classes = None

    @staticmethod
    def draw(root):
        love(root, *NAMES)


def test_loveda(tmp_path):
    love(tmp_path, *NAMES)
    data = published(loveda, tmp_path)
    assert {split: list(pairs(data, split)) for split in ("train", "val")} == {
        "train": ["1", "2", "3"],
        "val": ["4", "5"],
    }
    assert pairs(data)["2"] == ("Train/Rural/images_png/2.png", "Train/Rural/masks_png/2.png")
    assert data.classes == ("background", "building", "road", "water", "barren", "forest", "agriculture")
    assert data.palette[:3] == ((255, 255, 255), (255, 0, 0), (255, 255, 0)) and data.palette[4] == (159, 129, 183)
    mask = data.read(data.items("val")[0]).mask
    values = six(4) * 3 % 8  # 0, 3, 6, 1, 4, 7
    np.testing.assert_array_equal(mask, np.where(values == 0, IGNORE, values - 1))
    assert data.findings() == [] and "no split 'test'" in refused(data.items, "test")
    assert data.parse("Train/Rural/images_png/2.png Train/Rural/masks_png/2.png") == data.items("train")[1]


def test_loveda_with_options(tmp_path):
    love(tmp_path, *NAMES)
    assert list(pairs(published(loveda, tmp_path, areas=["Rural"]))) == ["2", "3"]
    assert list(pairs(published(loveda, tmp_path, areas=["Rural"]), "val")) == ["5"]
    data = published(loveda, tmp_path, unlabeled_test=True)
    assert pairs(data)["6"] == ("Test/Urban/images_png/6.png", None)
    love(tmp_path, "Test/Urban/6", test_masks=True)
    data = published(loveda, tmp_path, unlabeled_test=True)
    assert list(pairs(data)) == ["1", "2", "3"] and list(pairs(data, "test")) == ["6"]


def test_loveda_with_what_is_missing(tmp_path):
    assert "There are no scenes in" in refused(published, loveda, tmp_path)
    love(tmp_path, *NAMES, "Train/Urban/4")
    (tmp_path / "Train/Rural/masks_png/2.png").unlink()
    (tmp_path / "Val/Rural/masks_png/5.png").unlink()
    data = published(loveda, tmp_path, data={"on_error": "skip"})
    problems(data, ("images_png/5.png", "no label"))
    assert pairs(data)["2"] == ("Train/Rural/images_png/2.png", None), "without a label it is unlabeled"
    assert "Train/Urban/4" in pairs(data) and list(pairs(data, "val")) == ["Val/Urban/4"], "two are called 4"


# ISPRS.


def top(root, area, seed=0, label=True):
    draw_scene(root / f"top/top_mosaic_09cm_area{area}.tif", PICTURE.but(seed=seed))
    if label:
        colored(root / f"gts_for_participants/top_mosaic_09cm_area{area}.tif", six(seed))


class TestVaihingen(SceneTester):
    dataset = vaihingen
    classes = None

    @staticmethod
    def draw(root):
        for area in (1, 2, 3, 38):
            top(root, area, area, label=area != 3)


def test_vaihingen(tmp_path):
    for area in (1, 3, 10, 11, 38):
        top(tmp_path, area, area, label=area != 3)
    data = published(vaihingen, tmp_path)
    name = "top_mosaic_09cm_area{}".format
    assert pairs(data) == {
        name(1): (f"top/{name(1)}.tif", f"gts_for_participants/{name(1)}.tif"),
        name(11): (f"top/{name(11)}.tif", f"gts_for_participants/{name(11)}.tif"),
        name(3): (f"top/{name(3)}.tif", None),
    }
    assert list(pairs(data, "val")) == [name(10), name(38)]
    assert groups(data) == {name(1): "1", name(11): "11", name(3): "3"}
    assert data.classes == tuple(RGB) and data.palette == tuple(RGB.values())
    np.testing.assert_array_equal(data.read(data.items("train")[0]).mask, six(1))
    chosen = published(vaihingen, tmp_path, train_areas=[38, 10], val_areas=[1])
    assert list(pairs(chosen)) == [name(10), name(38)] and list(pairs(chosen, "val")) == [name(1)]


def test_eroded_labels(tmp_path):
    draw_scene(tmp_path / "top/top_mosaic_09cm_area1.tif", PICTURE)
    colored(tmp_path / "eroded/top_mosaic_09cm_area1_noBoundary.tif", six(), edge=2)
    data = published(vaihingen, tmp_path, labels="eroded")
    expected = six()
    expected[:2] = IGNORE
    np.testing.assert_array_equal(data.read(data.items("train")[0]).mask, expected)
    carried = data.carried
    assert carried.ignore_index == ["#000000"] and carried.classes["car"] == ["#ffff00"]


def test_official_areas():
    assert [len(POTSDAM.train), len(POTSDAM.val), len(VAIHINGEN.train), len(VAIHINGEN.val)] == [24, 14, 16, 17]
    for survey in (POTSDAM, VAIHINGEN):
        assert len({*survey.train, *survey.val}) == len(survey.train) + len(survey.val)


def area_image(root, area, kind="RGB", folder="2_Ortho_RGB", label="5_Labels_all", seed=0, bands=3):
    drawing = PICTURE.but(seed=seed, bands=bands)
    write(root / folder / f"top_potsdam_{area}_{kind}.tif", drawing.values(), drawing, photometric="MINISBLACK")
    if label:
        end = "_noBoundary" if label.endswith("noBoundary") else ""
        colored(root / label / f"top_potsdam_{area}_label{end}.tif", six(seed))


class TestPotsdam(SceneTester):
    dataset = potsdam
    classes = None

    @staticmethod
    def draw(root):
        for seed, area in enumerate(("2_10", "2_13", "6_7", "7_13")):
            area_image(root, area, seed=seed)


@pytest.mark.parametrize(
    ("imagery", "folder", "bands"),
    [("RGB", "2_Ortho_RGB", 3), ("IRRG", "3_Ortho_IRRG", 3), ("RGBIR", "4_Ortho_RGBIR", 4)],
)
@pytest.mark.parametrize("label", ["5_Labels_all", "5_Labels_all_noBoundary"])
def test_potsdam(tmp_path, imagery, folder, bands, label):
    for seed, area in enumerate(("2_10", "2_13", "7_7")):
        area_image(tmp_path, area, imagery, folder, label, seed, bands)
    data = published(potsdam, tmp_path, imagery=imagery, labels=label, channels=bands)
    assert groups(data) == {"top_potsdam_2_10": "2_10", "top_potsdam_7_7": "7_7"}
    assert pairs(data, "val")["top_potsdam_2_13"][0] == f"{folder}/top_potsdam_2_13_{imagery}.tif"
    np.testing.assert_array_equal(data.read(data.items("val")[0]).mask, six(1))


class TestTiles:
    """As other tools store them."""

    @pytest.fixture
    def root(self, tmp_path):
        for seed, name in enumerate(("2_10_0_0_20_24", "2_10_0_9_20_33", "2_13_0_0_20_24", "3_11_5_14_25_38")):
            picture(tmp_path / f"img_dir/{name}.png", seed)
            if seed != 1:
                colored(tmp_path / f"ann_dir/{name}.png", six(seed))
        return tmp_path

    def test_belong_to_their_areas(self, root):
        data = published(potsdam, root, images="img_dir", labels="ann_dir")
        assert groups(data) == {"2_10_0_0_20_24": "2_10", "2_10_0_9_20_33": "2_10", "3_11_5_14_25_38": "3_11"}
        assert pairs(data)["2_10_0_9_20_33"] == ("img_dir/2_10_0_9_20_33.png", None)
        assert groups(data, "val") == {"2_13_0_0_20_24": "2_13"}

    def test_of_one_area_stay_in_one_set(self, root):
        colored(root / "ann_dir/2_10_0_9_20_33.png", six(1))
        data = published(potsdam, root, images="img_dir", labels="ann_dir", data={"labeled": "1/2"})
        splits = resolve(data, data.data)
        areas = [{item.group for item in items} for items in (splits.labeled, splits.unlabeled, splits.val)]
        assert sorted(map(sorted, areas)) == [["2_10"], ["2_13"], ["3_11"]]

    def test_with_values_instead_of_colors(self, root):
        array(root / "ann_dir/2_10_0_0_20_24.png", (six() + 1).astype(np.uint8))
        classes = {name: value for value, name in enumerate(RGB, 1)}
        facts = {"images": "img_dir", "labels": "ann_dir", "classes": classes, "data": {"ignore_index": 0}}
        data = build(potsdam, root, **facts)
        np.testing.assert_array_equal(data.read(data.items("train")[0]).mask, six())
        assert data.palette == tuple(RGB.values())

    def test_of_vaihingen(self, tmp_path):
        for name in ("area1_0_0_20_24", "area16_0_0_20_24"):
            picture(tmp_path / f"img_dir/x/{name}.png")
            colored(tmp_path / f"ann_dir/{name}_noBoundary.png", six())
        data = published(vaihingen, tmp_path, images="img_dir", labels="ann_dir")
        assert groups(data) == {"area1_0_0_20_24": "1"} and groups(data, "val") == {"area16_0_0_20_24": "16"}


def test_areas_that_are_wrong(tmp_path):
    area_image(tmp_path, "2_10")
    both = {"train_areas": ["2_10", "2_11"], "val_areas": ["2_11"]}
    assert "Area 2_11 is in both" in refused(published, potsdam, tmp_path, **both)
    assert "val_areas: Potsdam has no area '2_1O'" in refused(published, potsdam, tmp_path, val_areas=["2_1O"])
    assert "'gts_for_participants' is not a folder" in refused(published, vaihingen, tmp_path)
    assert "no image of the training areas" in refused(published, potsdam, tmp_path, train_areas=["2_11"])
    assert "There are no scenes" in refused(published, potsdam, tmp_path, imagery="IRRG")
    area_image(tmp_path, "2_11")
    picture(tmp_path / "2_Ortho_RGB/overview.png")
    picture(tmp_path / "2_Ortho_RGB/more/top_potsdam_2_11_RGB.png")
    data = published(potsdam, tmp_path, data={"on_error": "skip"})
    problems(data, ("overview.png contains no area", "top_potsdam_2_10_RGB.tif"), ("are both named top_potsdam_2_11",))
    colored(tmp_path / "5_Labels_all/top_potsdam_2_10_label_noBoundary.tif", six())
    assert "are labels of the same image" in refused(published, potsdam, tmp_path)


def test_val_areas_whose_labels_are_held_back(tmp_path):
    for area in (1, 2):
        top(tmp_path, area, label=area == 1)
    assert "no split 'val'; it has train" in refused(published(vaihingen, tmp_path).items, "val")


# Change.


def pair(root, name, seed=0, top=255, label=True, end=".png"):
    """Two dates, and what changed between them: half of the pixels."""
    for folder, own in (("A", seed), ("B", seed + 100)):
        picture(root / folder / f"{name}{end}", own)
    if label:
        array(root / f"label/{name}.png", changed(seed) * np.uint8(top))


def changed(seed=0):
    return (Drawing(size=PICTURE.size, seed=seed).classes() > 1).astype(np.uint8)


class TestChange(SceneTester):
    dataset = change
    classes = None
    channels = 6
    splits = ("train", "val", "test")

    @staticmethod
    def draw(root):
        for split in ("train", "val", "test"):
            for number in range(3):
                pair(root / split, f"{split}_{number}", number)


def test_pairs_in_folders_by_split(tmp_path):
    for split in ("train", "val", "test"):
        pair(tmp_path / split, f"{split}_1", 3, label=True)
        pair(tmp_path / split, "x", 4, label=split != "train", end=".jpg")
    data = published(change, tmp_path, channels=6)
    assert pairs(data) == {
        "train_1": ("train/A/train_1.png", "train/B/train_1.png", "train/label/train_1.png"),
        "train/x": ("train/A/x.jpg", "train/B/x.jpg", None),
    }
    assert list(pairs(data, "val")) == ["val_1", "val/x"] and list(pairs(data, "test")) == ["test_1", "test/x"]
    assert data.classes == ("unchanged", "changed") and data.findings() == []
    sample = data.read(data.items("train")[0])
    dates = [PICTURE.but(seed=seed).values() / 255 for seed in (3, 103)]
    np.testing.assert_allclose(sample.image, np.concatenate(dates), rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, changed(3))


@pytest.mark.parametrize("folder", ["list", "lists"])
@pytest.mark.parametrize("line", ["{}.png", "{}", "A/{0}.png B/{0}.png label/{0}.png"])
def test_pairs_by_lists(tmp_path, folder, line):
    for number in range(6):
        pair(tmp_path, f"t_{number}.0", number, top=1, label=number != 1)
    (tmp_path / folder).mkdir()
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4,))):
        (tmp_path / folder / f"{split}.txt").write_text("\n".join(line.format(f"t_{n}.0") for n in numbers) + "\n\n")
    data = published(change, tmp_path, channels=6)
    assert {split: list(pairs(data, split)) for split in ("train", "val", "test")} == {
        "train": ["t_0.0", "t_1.0", "t_2.0"], "val": ["t_3.0"], "test": ["t_4.0"],
    }  # fmt: skip
    assert pairs(data)["t_1.0"] == ("A/t_1.0.png", "B/t_1.0.png", None)
    np.testing.assert_array_equal(data.read(data.items("val")[0]).mask, changed(3))


def test_pairs_without_lists_are_for_training(tmp_path):
    for number in range(40):
        pair(tmp_path, f"{number}", number)
    data = published(change, tmp_path, channels=6, data={"labeled": "0.05", "val": "1/5"})
    splits = resolve(data, data.data)
    assert [len(part) for part in (splits.labeled, splits.unlabeled, splits.val)] == [2, 30, 8]
    assert data.parse("7.png").id == "7"
    carried = data.carried
    assert carried.layout.options["before"] == "A" and carried.layout.options["after"] == "B"
    assert carried.classes == {"unchanged": [0], "changed": [1, 255]} and carried.ignore_index is None


def test_pairs_that_are_wrong(tmp_path):
    assert "There are no images in" in refused(published, change, tmp_path, channels=6)
    for number in range(4):
        pair(tmp_path, f"{number}", number)
    (tmp_path / "A/0.png").unlink()
    (tmp_path / "B/1.png").unlink()
    (tmp_path / "label/3.png").unlink()
    (tmp_path / "list").mkdir()
    (tmp_path / "list/train.txt").write_text("2.png\n9.png\n2.png\n")
    (tmp_path / "list/val.txt").write_text("3.png\n2.png\n")
    data = published(change, tmp_path, channels=6, data={"on_error": "skip"})
    problems(
        data, ("A/1.png", "no image of the same name", "B"), ("B/0.png", "no image of the same name", "A"),
        ("train.txt, line 2: '9.png' is not an image"), ("train.txt, line 3: 2 is already in train.txt",),
        ("val.txt, line 2: 2 is already in train.txt",),
        ("A/3.png has no label"),
    )  # fmt: skip
    assert list(pairs(data)) == ["2"]
    three = published(change, tmp_path, channels=3)
    assert "6 channels, but data.channels is 3" in " ".join(three.findings())


@pytest.mark.parametrize("layout", [loveda, potsdam, vaihingen, change])
def test_layouts_have_the_options_of_scenes(layout):
    options = describe_object(layout).options
    assert {"window", "scaling", "stats", "bands"} < set(options) and all(option.help for option in options.values())
