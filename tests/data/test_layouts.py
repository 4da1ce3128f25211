import json
import os
import pickle
from functools import partial

import numpy as np
import pytest
from PIL import Image

from farcluss.data.cityscapes import CITYSCAPES_CLASSES, cityscapes
from farcluss.data.folder import folder
from farcluss.data.splits import read_list, resolve
from farcluss.data.voc import VOC_CLASSES, voc
from farcluss.errors import DataError
from farcluss.recipes.model import Data

CLASSES = ["a", "b", "c"]


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


def mask(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)


def own(root, **options):
    return folder(Data(root=root, classes=CLASSES), **options)


def pairs(items, root):
    """What belongs to what, as paths below the root."""
    return {os.path.relpath(i.image, root): i.mask and os.path.relpath(i.mask, root) for i in items}


def refused(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3
    return text


# A folder of one's own: images by folder, glob or list; masks by folder or pattern.


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        ("a**b/*.png", "masks", "'a**b/*.png' is not an image, a folder or a valid glob"),
        ("", "masks", "data.layout.images is empty"),
        ("images", "{stem:>1000000}", "may hold {stem}, {dir} and {up} only"),
        ("images", "{stem.__class__}", "may hold {stem}, {dir} and {up} only"),
    ],
)
def test_patterns_that_are_none(tmp_path, images, masks, said):
    picture(tmp_path / "images" / "0.png")
    assert said in refused(lambda: own(tmp_path, images=images, masks=masks).items("train"))


def test_names_that_lists_hold(tmp_path):
    """Lists as runs write them, image and mask with a tab between, read back whatever a name holds but line breaks."""
    names = ["plain", "two words", "tab\tin it", "line\u2028separator", "next\x85line", "form\x0cfeed", "a{stem}b"]
    for name in names:
        picture(tmp_path / "images" / f"{name}.png"), mask(tmp_path / "masks" / f"{name}.png")
    dataset = own(tmp_path)
    items = dataset.items("train")
    for lines in ([f"{item.image}\t{item.mask}" for item in items], [item.image for item in items]):
        (tmp_path / "list.txt").write_text("\r\n".join(lines), newline="")
        assert read_list(tmp_path / "list.txt", dataset) == items and len(items) == len(names)
    picture(tmp_path / "images" / "two\nlines.png")
    assert "has a line break, which no list can hold. Rename the file." in refused(dataset.items, "train")


def test_folder_by_folder_with_masks_for_some(tmp_path):
    for name in ("0.jpg", "1.JPG", "deep/2.png", "3.tif"):
        picture(tmp_path / "images" / name)
    for name in ("0.png", "deep/2.tif"):
        mask(tmp_path / "masks" / name)
    (tmp_path / "images" / "notes.txt").write_text("x")
    picture(tmp_path / "images" / ".thumb.jpg")
    dataset = own(tmp_path)
    items = dataset.items("train")
    assert pairs(items, tmp_path) == {
        "images/0.jpg": "masks/0.png",
        "images/1.JPG": None,
        "images/3.tif": None,
        "images/deep/2.png": "masks/deep/2.tif",
    }
    assert [item.id for item in items] == ["images/0", "images/1", "images/3", "images/deep/2"]
    assert dataset.read(items[0]).mask.shape == dataset.size(items[0]) == (4, 6)
    assert dataset.read(items[1]).mask is None


def test_same_names_in_every_folder_with_blanks(tmp_path):
    for tile in (1, 2, 3):
        picture(tmp_path / f"Tile {tile}/images/x.jpg", tile)
        if tile < 3:
            mask(tmp_path / f"Tile {tile}/masks/x.png", tile)
    dataset = own(tmp_path, images="*/images/*.jpg", masks="{up}/masks/{stem}.png")
    items = dataset.items("train")
    assert pairs(items, tmp_path) == {
        "Tile 1/images/x.jpg": "Tile 1/masks/x.png",
        "Tile 2/images/x.jpg": "Tile 2/masks/x.png",
        "Tile 3/images/x.jpg": None,
    }
    assert len({item.id for item in items}) == 3
    assert [int(dataset.read(item).mask.max()) for item in items[:2]] == [1, 2]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{dir}/{stem}_mask.png", "city/images/x_mask.png"),
        ("{up}/labels/{stem}.png", "city/labels/x.png"),
        ("masks/{dir}/{stem}.png", "masks/city/images/x.png"),
        ("{up}/one mask for all.png", "city/one mask for all.png"),
    ],
)
def test_mask_patterns(tmp_path, pattern, path):
    picture(tmp_path / "city/images/x.jpg")
    mask(tmp_path / path)
    dataset = own(tmp_path, images="city/images/*.jpg", masks=pattern)
    assert pairs(dataset.items("train"), tmp_path) == {"city/images/x.jpg": path}


def test_names_of_which_a_part_differs(tmp_path):
    """`img(1).png` and `target(1).png` in one folder: no mask is an image, and one without an image is said."""
    for name in ("img(1)", "img(2)", "deep/img(3)"):
        picture(tmp_path / f"all/{name}.png")
        mask(tmp_path / f"all/{name.replace('img', 'target')}.png") if name != "img(2)" else None
    mask(tmp_path / "all/target(9).png")
    dataset = own(tmp_path, images="all", masks="{dir}/{stem:img=target}.png")
    items = dataset.items("train")
    assert pairs(items, tmp_path) == {
        "all/img(1).png": "all/target(1).png",
        "all/img(2).png": None,
        "all/deep/img(3).png": "all/deep/target(3).png",
    }
    lost, among = dataset.account(items).lines()
    assert "1 mask is not used, as no image has the same name" in lost and "target(9).png" in lost
    assert "2 files among the images are not used as images, but as masks" in among


WRONG = ["{name}.png", "{}.png", "{stem", "{stem.x}.png", "{stem:>9999999}", "{stem!r}", "{stem:=x}", "{dir:a=b}"]


@pytest.mark.parametrize("pattern", WRONG)
def test_a_wrong_mask_pattern(tmp_path, pattern):
    picture(tmp_path / "images/x.jpg")
    assert "{stem}, {dir} and {up}" in refused(partial(own, tmp_path, masks=pattern))


def test_image_suffix(tmp_path):
    picture(tmp_path / "images/a/x_img.jpg")
    mask(tmp_path / "masks/a/x.png")
    mask(tmp_path / "flat/x_seg.png")
    for masks, wanted in (("masks", "masks/a/x.png"), ("flat/{stem}_seg.png", "flat/x_seg.png")):
        dataset = own(tmp_path, masks=masks, image_suffix="_img")
        assert pairs(dataset.items("train"), tmp_path) == {"images/a/x_img.jpg": wanted}


def test_a_glob_with_a_folder_of_masks(tmp_path):
    for city in ("bonn", "ulm"):
        picture(tmp_path / f"images/{city}/{city}.jpg")
        mask(tmp_path / f"mirrored/{city}/{city}.png")
        mask(tmp_path / f"flat/{city}.png")
    for masks, place in (("mirrored", "mirrored/{0}/{0}.png"), ("flat", "flat/{0}.png")):
        dataset = own(tmp_path, images="images/*/*.jpg", masks=masks)
        wanted = {f"images/{city}/{city}.jpg": place.format(city) for city in ("bonn", "ulm")}
        assert pairs(dataset.items("train"), tmp_path) == wanted


def test_one_mask_for_two_images_of_one_name_is_refused(tmp_path):
    for tile in ("a", "b"):
        picture(tmp_path / tile / "images/x.jpg")
    mask(tmp_path / "masks/x.png")
    text = refused(own(tmp_path, images="*/images/*.jpg").items, "train")
    assert "a/images/x.jpg" in text and "b/images/x.jpg" in text and "masks/x.png" in text and "pattern" in text


def test_validation_images_have_masks_of_their_own(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("0", "1"):
            picture(tmp_path / split / f"img/{name}.jpg")
        mask(tmp_path / split / "seg/0.png")
    mask(tmp_path / "train/seg/1.png")
    for pattern in ("{}/img", "{}/img/*.jpg"):
        options = {"images": pattern.format("train"), "masks": "train/seg"}
        for split in ("val", "test"):
            options |= {f"{split}_images": pattern.format(split), f"{split}_masks": f"{split}/seg"}
        dataset = own(tmp_path, **options)
        for split in ("val", "test"):
            wanted = {f"{split}/img/0.jpg": f"{split}/seg/0.png", f"{split}/img/1.jpg": None}
            assert pairs(dataset.items(split), tmp_path) == wanted
            assert pairs([dataset.parse(line) for line in wanted], tmp_path) == wanted


def test_validation_images_below_the_training_images(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/0.jpg")
        mask(tmp_path / f"masks/{split}/0.png")
    dataset = own(tmp_path, images="images", val_images="images/val")
    assert pairs(dataset.items("val"), tmp_path) == {"images/val/0.jpg": "masks/val/0.png"}


def test_validation_images_in_a_sibling_folder_share_the_pattern(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "images/0.jpg")
        mask(tmp_path / split / "masks/0.png")
    dataset = own(tmp_path, images="train/images", val_images="val/images", masks="{up}/masks/{stem}.png")
    assert pairs(dataset.items("val"), tmp_path) == {"val/images/0.jpg": "val/masks/0.png"}


def test_splits_told_apart_by_name_alone(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"{split}_0.jpg")
        for kind in ("a", "b"):
            mask(tmp_path / f"{split}_0_{kind}.png")
    options = {"images": "train_*.jpg", "val_images": "val_*.jpg", "masks": "{stem}_a.png", "val_masks": "{stem}_b.png"}
    dataset = own(tmp_path, **options)
    assert pairs(dataset.items("train"), tmp_path) == {"train_0.jpg": "train_0_a.png"}
    assert pairs(dataset.items("val"), tmp_path) == {"val_0.jpg": "val_0_b.png"}
    assert "could be" in refused(dataset.parse, "val_0.jpg")
    assert pairs([dataset.parse("val_0.jpg val_0_b.png")], tmp_path) == {"val_0.jpg": "val_0_b.png"}


def test_lists_as_images(tmp_path):
    for split in ("train", "val"):
        for name in ("0", "1"):
            picture(tmp_path / split / f"img/{name}.jpg")
            mask(tmp_path / split / f"seg/{name}.png")
    (tmp_path / "train.txt").write_text("train/img/0.jpg\ntrain/img/1.jpg train/seg/0.png")
    (tmp_path / "val.txt").write_text("val/img/0.jpg\n")
    dataset = own(tmp_path, images="train.txt", masks="train/seg", val_images="val.txt", val_masks="val/seg")
    assert pairs(dataset.items("train"), tmp_path) == {
        "train/img/0.jpg": "train/seg/0.png",
        "train/img/1.jpg": "train/seg/0.png",
    }
    assert pairs(dataset.items("val"), tmp_path) == {"val/img/0.jpg": "val/seg/0.png"}


def test_the_root_may_be_relative_and_lists_absolute(tmp_path, monkeypatch):
    for name in ("0", "1"):
        picture(tmp_path / f"set/images/{name}.jpg")
        mask(tmp_path / f"set/masks/{name}.png")
    (tmp_path / "labeled.txt").write_text(f"{tmp_path}/set/images/0.jpg\n")
    monkeypatch.chdir(tmp_path)
    data = Data(root="set", classes=CLASSES, labeled="labeled.txt", val="none")
    splits = resolve(folder(data), data)
    assert [item.id for item in splits.labeled] == ["images/0"]
    assert [item.id for item in splits.unlabeled] == ["images/1"]


def test_ids_do_not_depend_on_where_the_root_lies(tmp_path, monkeypatch):
    for place in ("here", "there/deep"):
        picture(tmp_path / place / "images/0.jpg")
    monkeypatch.chdir(tmp_path)
    ids = [[i.id for i in own(root).items("train")] for root in ("here", tmp_path / "there/deep", "there/../here/")]
    assert ids == [["images/0"]] * 3


def test_missing_folders_and_splits(tmp_path):
    assert str(tmp_path / "none") in refused(own, tmp_path / "none")
    dataset = own(tmp_path)
    assert "no images in" in refused(dataset.items, "train")
    picture(tmp_path / "images/.hidden.jpg")
    assert "no images in" in refused(dataset.items, "train")
    text = refused(dataset.items, "val")
    assert "no 'val' images" in text and "it has train" in text and 'data.val = "1/5"' in text


# List lines.

LINES = {
    "images/x.jpg": "masks/x.png",
    "images/x.jpg masks/other.png": "masks/other.png",
    "images/x.jpg\tmasks/other.png": "masks/other.png",
    "images/x.jpg   masks/other.png": "masks/other.png",
    "  images/x.jpg \t masks/other.png \r\n": "masks/other.png",
    "/images/x.jpg /masks/other.png": "masks/other.png",
    "./images/x.jpg": "masks/x.png",
    "images//../images/x.jpg": "masks/x.png",
    "{root}/images/x.jpg {root}/masks/other.png": "masks/other.png",
    "{root}/images/x.jpg": "masks/x.png",
    "x": "masks/x.png",
    "images/x": "masks/x.png",
}
BLANKS = {
    "images/two words.jpg": "masks/two words.png",
    "images/two words.jpg masks/three more words.png": "masks/three more words.png",
    "images/two words.jpg\tmasks/three more words.png": "masks/three more words.png",
    "two words": "masks/two words.png",
    "{root}/images/two words.jpg {root}/masks/three more words.png": "masks/three more words.png",
}


@pytest.fixture
def listed(tmp_path):
    root = tmp_path / "my data"
    for name in ("x", "two words"):
        picture(root / f"images/{name}.jpg")
    for name in ("x", "two words", "other", "three more words"):
        mask(root / f"masks/{name}.png")
    return root


@pytest.mark.parametrize("line", [*LINES, *BLANKS])
def test_lines(listed, line):
    item = own(listed).parse(line.format(root=listed))
    name = "x" if line in LINES else "two words"
    assert pairs([item], listed) == {f"images/{name}.jpg": (LINES | BLANKS)[line]}
    assert item.id == f"images/{name}"


@pytest.mark.parametrize("line", ["images/none.jpg masks/x.png", "none", "images", "Tile 1/x.jpg", "\t"])
def test_lines_that_name_nothing(listed, line):
    text = refused(own(listed).parse, line)
    assert repr(line.strip()) in text and str(listed) in text


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n  \n"])
@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(listed, start, between, end):
    path = listed / "list.txt"
    path.write_bytes((start + between.join(["images/x.jpg masks/x.png", "images/two words.jpg"]) + end).encode())
    assert [item.id for item in read_list(path, own(listed))] == ["images/x", "images/two words"]


def test_a_bad_line_is_named_by_its_number(listed):
    (listed / "list.txt").write_text("images/x.jpg\n\nimages/y.jpg\n")
    text = refused(read_list, listed / "list.txt", own(listed))
    assert f"{listed / 'list.txt'}, line 3" in text and "images/y.jpg" in text


def test_an_image_outside_of_the_root(listed, tmp_path):
    picture(tmp_path / "elsewhere/x.jpg")
    assert own(listed).parse(f"{tmp_path}/elsewhere/x.jpg").mask is None
    item = own(listed).parse(f"{tmp_path}/elsewhere/x.jpg {listed}/masks/x.png")
    assert item.mask == str(listed / "masks/x.png")


# Published layouts.


@pytest.fixture
def vocs(tmp_path):
    """train: fine, also in SBD with another value; val: fine; aug: SBD alone; bare: no mask at all."""
    for name in ("2007_train", "2007_val", "2008_aug", "2008_bare"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
    for name in ("2007_train", "2007_val"):
        mask(tmp_path / f"SegmentationClass/{name}.png", 1)
    for name in ("2007_train", "2007_val", "2008_aug"):
        mask(tmp_path / f"SegmentationClassAug/{name}.png", 2)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_train\n")
    (lists / "val.txt").write_text("2007_val")
    return tmp_path


@pytest.mark.parametrize(
    ("variant", "wanted"),
    [
        ("classic", {"2007_train": "SegmentationClass", "2008_aug": None}),
        ("blended", {"2007_train": "SegmentationClassAug", "2008_aug": "SegmentationClassAug"}),
    ],
)
def test_voc(vocs, variant, wanted):
    dataset = voc(Data(root=vocs), variant=variant)
    assert dataset.classes == tuple(VOC_CLASSES) and len(dataset.classes) == 21
    assert pairs(dataset.items("train"), vocs) == {
        f"JPEGImages/{name}.jpg": place and f"{place}/{name}.png" for name, place in wanted.items()
    }
    assert [item.id for item in dataset.items("val")] == ["JPEGImages/2007_val"]
    (vocs / "ImageSets/Segmentation/train_aug.txt").write_text("2007_train\n2008_aug\n2008_bare\n2007_val\n")
    names = [item.id for item in dataset.items("train")]
    assert names == ["JPEGImages/2007_train", "JPEGImages/2008_aug", "JPEGImages/2008_bare"]


@pytest.mark.parametrize(
    "line",
    [
        "2007_train",
        "JPEGImages/2007_train.jpg",
        "JPEGImages/2007_train.jpg SegmentationClass/2007_train.png",
        "/JPEGImages/2007_train.jpg /SegmentationClassAug/2007_train.png",
        "JPEGImages/2007_train",
    ],
)
def test_voc_lines_of_the_field_follow_the_variant(vocs, line):
    for variant, place in (("classic", "SegmentationClass"), ("blended", "SegmentationClassAug")):
        item = voc(Data(root=vocs), variant=variant).parse(line)
        assert item.id == "JPEGImages/2007_train" and item.mask == str(vocs / place / "2007_train.png")


def test_voc_unlabeled_lines_need_no_mask(vocs):
    (vocs / "u.txt").write_text("JPEGImages/2008_bare.jpg SegmentationClass/2008_bare.png\n2008_aug\n")
    data = Data(root=vocs, labeled="all", unlabeled="u.txt")
    splits = resolve(voc(data), data)
    assert [item.id for item in splits.unlabeled] == ["JPEGImages/2008_bare", "JPEGImages/2008_aug"]
    assert [item.id for item in splits.labeled] == ["JPEGImages/2007_train"]


def test_voc_without_files(tmp_path, vocs):
    assert "JPEGImages" in refused(lambda: voc(Data(root=tmp_path / "none")))
    (vocs / "ImageSets/Segmentation/val.txt").unlink()
    assert "val.txt is missing" in refused(voc(Data(root=vocs)).items, "val")
    assert "'test'" in refused(voc(Data(root=vocs)).items, "test")


@pytest.fixture
def cities(tmp_path):
    for split, city, frame in (("train", "ulm", "0"), ("train", "bonn", "1"), ("val", "lindau", "2")):
        stem = f"{city}_00000{frame}_000019"
        picture(tmp_path / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        labels = np.arange(24, dtype=np.uint8).reshape(4, 6) + 10 * (frame == "1")
        path = tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(labels).save(path)
    return tmp_path


def test_cityscapes_label_ids_are_mapped(cities):
    dataset = cityscapes(Data(root=cities))
    items = dataset.items("train")
    assert [item.id.split("/")[-1] for item in items] == [
        "bonn_000001_000019_leftImg8bit",
        "ulm_000000_000019_leftImg8bit",
    ]
    # From the definition of the data set: labelId -> trainId, all else 255.
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for item, first in zip(items, (10, 0), strict=True):
        wanted = [ids.index(v) if v in ids else 255 for v in range(first, first + 24)]
        assert dataset.read(item).mask.ravel().tolist() == wanted
    assert dataset.classes == tuple(CITYSCAPES_CLASSES) and dataset.palette[13] == (0, 0, 142)
    assert len(dataset.items("val")) == 1


def test_cityscapes_train_ids_are_taken_where_they_are(cities):
    for path in list((cities / "gtFine").rglob("*_labelIds.png")):
        Image.fromarray(np.array([[0, 5, 18, 255, 0, 0]] * 4, np.uint8)).save(
            str(path).replace("labelIds", "labelTrainIds")
        )
    for labels in ("auto", "labelTrainIds"):
        dataset = cityscapes(Data(root=cities), labels=labels)
        assert dataset.read(dataset.items("train")[0]).mask[0].tolist() == [0, 5, 18, 255, 0, 0]
    dataset = cityscapes(Data(root=cities), labels="labelIds")
    assert dataset.items("train")[0].mask.endswith("_labelIds.png")


@pytest.mark.parametrize(
    "line",
    [
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png "
        "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png",
        "ulm_000000_000019",
        "train/ulm/ulm_000000_000019",
    ],
)
def test_cityscapes_lines_of_the_field(cities, line):
    item = cityscapes(Data(root=cities)).parse(line)
    assert item.id == "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit"
    assert item.mask.endswith("gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png")


def test_cityscapes_unknown_value_and_missing_folder(cities, tmp_path):
    dataset = cityscapes(Data(root=cities))
    item = dataset.items("train")[0]
    Image.fromarray(np.full((4, 6), 40, np.uint8)).save(item.mask)
    assert "40" in refused(dataset.read, item)
    assert "leftImg8bit" in refused(lambda: cityscapes(Data(root=tmp_path / "none")))


def test_data_sets_travel_to_worker_processes(listed, vocs, cities):
    (listed / "images.txt").write_text("images/x.jpg\n")
    datasets = [own(listed), own(listed, images="images.txt"), voc(Data(root=vocs)), cityscapes(Data(root=cities))]
    for dataset in datasets:
        copy = pickle.loads(pickle.dumps(dataset))
        items = copy.items("train")
        assert items == dataset.items("train")
        assert np.array_equal(copy.read(items[0]).mask, dataset.read(items[0]).mask)


def test_ids_are_names_of_lines(listed, vocs, cities):
    for dataset in (own(listed), voc(Data(root=vocs)), cityscapes(Data(root=cities))):
        for item in dataset.items("train"):
            assert dataset.parse(item.id).image == item.image
            assert json.dumps(item.id)


def test_a_named_mask_that_is_missing_is_an_error_where_masks_are_needed(tmp_path):
    for name in "abc":
        picture(tmp_path / f"pictures/{name}.png")
    mask(tmp_path / "truth/a.png")
    (tmp_path / "train.txt").write_text("pictures/a.png truth/a.png\npictures/b.png truth/typo.png\npictures/c.png\n")
    dataset = own(tmp_path, images="train.txt")
    text = refused(dataset.items, "train")
    assert "line 2" in text and "truth/typo.png does not exist" in text
    items = read_list(tmp_path / "train.txt", dataset, need_masks=False)
    assert pairs(items, tmp_path) == {"pictures/a.png": "truth/a.png", "pictures/b.png": None, "pictures/c.png": None}


def test_splits_below_the_training_images_are_no_training_images(tmp_path):
    for name in ("a", "b", "val/c", "test/d"):
        picture(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png")
    dataset = own(tmp_path, val_images="images/val", test_images="images/test")
    assert [item.id for item in dataset.items("train")] == ["images/a", "images/b"]
    assert [item.id for item in dataset.items("val")] == ["images/val/c"]
    assert [item.id for item in dataset.items("test")] == ["images/test/d"]


def test_cityscapes_auto_looks_at_the_training_masks(tmp_path):
    for split, kinds in (("train", ["labelIds"]), ("val", ["labelIds", "labelTrainIds"])):
        picture(tmp_path / f"leftImg8bit/{split}/x/x_0_leftImg8bit.png")
        for kind in kinds:
            mask(tmp_path / f"gtFine/{split}/x/x_0_gtFine_{kind}.png", 7)
    dataset = cityscapes(Data(root=tmp_path))
    assert (dataset.read(dataset.items("train")[0]).mask == 0).all()
    assert dataset.items("val")[0].mask.endswith("labelIds.png")


def test_a_name_that_is_no_text_is_refused(tmp_path, monkeypatch):
    dataset = folder(Data(root=tmp_path, classes=["a", "b"]))
    with pytest.raises(DataError, match=r"The file name '.*\\udcff\.png' is not valid UTF-8\. Rename the file\."):
        dataset.item(tmp_path / os.fsdecode(b"\xff.png"))
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")  # as in the locale C, without UTF-8 mode
    with pytest.raises(DataError, match=r"The locale's encoding, ascii, lacks letters of .* Set LC_ALL=C\.UTF-8\."):
        dataset.item(tmp_path / "\udcc3\udcb6.png")
