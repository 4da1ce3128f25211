"""Nothing in a folder is left out without a word: every entry is used, or said not to be and why."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farcluss.data.accounting import Reason
from farcluss.data.cityscapes import cityscapes
from farcluss.data.folder import folder
from farcluss.data.searching import search, search_glob
from farcluss.data.splits import resolve
from farcluss.data.voc import voc
from farcluss.errors import DataError
from farcluss.recipes.model import Data

NFC, NFD = "caf\u00e9", "cafe\u0301"


def put(path: Path) -> None:
    """A file, a picture, a folder (`x/`), a pipe (`x|`) or a link (`x -> target`)."""
    name, _, target = str(path).partition(" -> ")
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if target:
        os.symlink(target, name)
    elif name.endswith("|"):
        os.mkfifo(name[:-1])
    elif name.endswith("+"):
        Path(name[:-1]).mkdir()
    elif path.suffix.lower() in (".png", ".jpg", ".bmp"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    else:
        path.touch()


def build(root, entries, **options):
    for name in ["images/a.jpg", "images/b.jpg", "masks/a.png", *entries]:
        put(root / name)
    return folder(Data(root=root, classes=["x", "y"]), **options)


def account(dataset):
    items = dataset.items("train")
    found = dataset.account(items)
    passed = {(one.path.relative_to(dataset.root).as_posix(), one.reason.value): one.detail for one in found.passed}
    return {Path(item.image).relative_to(dataset.root).as_posix(): bool(item.mask) for item in items}, passed


PLAIN = {"images/a.jpg": True, "images/b.jpg": False}
TREES = {
    "a misspelled mask": (["masks/b_mask.png"], PLAIN, {("masks/b_mask.png", "unowned"): "did you mean b.jpg?"}),
    "another case": (["masks/B.png"], PLAIN, {("masks/B.png", "unowned"): "did you mean b.jpg?"}),
    "a blank": (["masks/b .png"], PLAIN, {("masks/b .png", "unowned"): "did you mean b.jpg?"}),
    "no like name": (["masks/zzz.png"], PLAIN, {("masks/zzz.png", "unowned"): ""}),
    "one name in two forms": (
        [f"images/{NFC}.jpg", f"masks/{NFD}.png"],
        PLAIN | {f"images/{NFC}.jpg": True},
        {},
    ),
    "a mask that is a folder, and one that is a pipe": (
        ["masks/b.png+", "masks/c.png|"],
        PLAIN,
        {("masks/b.png", "special"): "folder", ("masks/c.png", "special"): "pipe, socket or device"},
    ),
    "an image that is a folder, a pipe, a broken link": (
        ["images/c.png+", "images/d.png|", "images/e.png -> gone.png", "images/f.png -> f.png"],
        PLAIN,
        {
            ("images/c.png", "special"): "folder",
            ("images/d.png", "special"): "pipe, socket or device",
            ("images/e.png", "special"): "broken link",
            ("images/f.png", "special"): "broken link",
        },
    ),
    "endings that are not read": (
        ["images/c.AVIF", "images/d.nii.gz", "images/IM0001", "masks/c.npz"],
        PLAIN,
        {(name, "unread"): "" for name in ("images/c.AVIF", "images/d.nii.gz", "images/IM0001", "masks/c.npz")},
    ),
    "what belongs to images, and texts": (["images/a.cr2", "images/a.jpg.bak", "images/notes.csv"], PLAIN, {}),
    "hidden files and folders": (["images/.ipynb_checkpoints/a-checkpoint.png", "masks/._b.png"], PLAIN, {}),
    "links to folders, one of them in a circle": (
        ["elsewhere/c.jpg", "images/sub -> ../elsewhere", "images/loop -> ."],
        PLAIN | {"images/sub/c.jpg": False},
        {("images/loop", "seen"): ""},
    ),
}


@pytest.mark.parametrize("tree", TREES)
def test_every_entry_of_a_folder_is_used_or_said(tmp_path, tree):
    entries, used, passed = TREES[tree]
    dataset = build(tmp_path, entries)
    assert account(dataset) == (used, passed)
    lines = dataset.account(dataset.items("train")).lines()
    assert len(lines) == len({reason for _, reason in passed})
    assert all(any(Path(name).name in line for line in lines) for name, reason in [*passed][:3] if reason != "unread")


AMONG = [f"data/{name}" for name in ("a.jpg", "a_mask.png", "b.jpg", "c.jpg", "c_mask.png", "typo_mask.png")]


@pytest.mark.parametrize(
    "options",
    [{"images": "data", "masks": "data/{stem}_mask.png"}, {"images": "data/*", "masks": "{dir}/{stem}_mask"}],
)
def test_masks_among_images_are_no_images(tmp_path, options):
    used, passed = account(build(tmp_path, AMONG, **options))
    assert used == {"data/a.jpg": True, "data/b.jpg": False, "data/c.jpg": True}
    reasons = {Path(name).name: reason for name, reason in passed}
    assert reasons == {"a_mask.png": "mask", "c_mask.png": "mask", "typo_mask.png": "unowned"}


def test_a_folder_of_masks_inside_that_of_images(tmp_path):
    used, passed = account(build(tmp_path, ["masks/typo.png"], images=".", masks="masks", image_suffix=""))
    assert used == {"images/a.jpg": False, "images/b.jpg": False}
    assert set(passed) == {("masks/typo.png", "unowned"), ("masks/a.png", "unowned")}


@pytest.mark.parametrize(
    ("entries", "options", "words"),
    [
        (["masks/a.bmp"], {}, ["masks/a.bmp", "masks/a.png"]),
        (["masks/a.PNG", "masks/b.png", "masks/b.bmp"], {}, ["masks/a.PNG", "The same holds for 1 more."]),
        (["images/a.png"], {}, ["images/a.jpg", "images/a.png", "masks/a.png"]),
        ([], {"images": ""}, ["data.layout.images is empty"]),
        ([], {"masks": "images"}, ["both 'images'"]),
        ([], {"images": "a**b/*.png"}, ["a valid glob"]),
        (["raw/a.avif"], {"images": "raw"}, ["no images in", ".avif (1)"]),
        ([], {"images": "none"}, ["no images in"]),
        (["images/a.json"], {"masks": "images/{stem}.json"}, ["images/a.json would be a mask"]),
        (["data/a.png"], {"images": "data", "masks": "data/{stem}"}, []),
        (["data/a.png", "data/a.jpg"], {"images": "data", "masks": "data/{stem}"}, ["each of its 2 files is a mask"]),
    ],
)
def test_what_may_be_either_is_refused(tmp_path, entries, options, words):
    if not words:
        assert account(build(tmp_path, entries, **options))[0] == {"data/a.png": False}
        return
    with pytest.raises(DataError) as caught:
        build(tmp_path, entries, **options).items("train")
    assert all(word in str(caught.value) for word in words) and len(str(caught.value).splitlines()) <= 3


def test_no_mask_of_the_right_name(tmp_path):
    for name in ("images/a.jpg", "images/b.jpg", "masks/c_a.png"):
        put(tmp_path / name)
    data = Data(root=tmp_path, classes=["x", "y"], labeled="all", val="none")
    with pytest.raises(DataError, match=r"None of the 2 (.|\n)*masks/c_a.png"):
        resolve(folder(data), data)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/a.jpg other/a.png", "line 2: the mask {root}/other/a.png does not exist"),
        ("images/a.jpg masks/a.png 17", "line 2: the mask {root}/masks/a.png 17 does not exist"),
        ("images/../images/b.jpg", "{root}/images/b.jpg (2 times)"),
        ("{root}/images/b.jpg\n./images/b.jpg", "{root}/images/b.jpg (3 times)"),
    ],
)
def test_a_list_names_each_image_once_and_masks_that_exist(tmp_path, line, words):
    dataset = build(tmp_path, ["masks/b.png"], images="list.txt")
    (tmp_path / "list.txt").write_text("images/b.jpg masks/b.png\n" + line.format(root=tmp_path))
    with pytest.raises(DataError) as caught:
        dataset.items("train")
    assert words.format(root=tmp_path) in str(caught.value)


def test_masks_of_images_that_a_list_leaves_out_are_no_mistake(tmp_path):
    dataset = build(tmp_path, ["masks/b.png"], images="list.txt")
    (tmp_path / "list.txt").write_text("images/b.jpg\n")
    assert account(dataset) == ({"images/b.jpg": True}, {})


def test_folders_without_rights_are_named(tmp_path, monkeypatch):
    for name in ("in/a.png", "in/closed/b.png"):
        put(tmp_path / name)
    scan, closed = os.scandir, tmp_path / "in/closed"

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        for options in ({"images": "in"}, {"masks": "in"}):
            with pytest.raises(DataError, match=r"in/closed cannot be searched: permission denied"):
                build(tmp_path, [], **options).items("train")
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    for found in (search(tmp_path / "in", [".png"]), search_glob(tmp_path, "in/*/*.png", [".png"])):
        assert [(one.path, one.reason, one.detail) for one in found.passed] == [
            (closed, Reason.DENIED, "permission denied")
        ]


@pytest.mark.parametrize(
    ("layout", "entries", "lost"),
    [
        (
            voc,
            ["JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationClass/A.png", "JPEGImages/b.heic"],
            {"SegmentationClass/A.png": "unowned", "JPEGImages/b.heic": "unread"},
        ),
        (
            cityscapes,
            [f"{folder}/train/x/{name}" for folder, name in (
                ("leftImg8bit", "a_leftImg8bit.png"), ("gtFine", "a_gtFine_labelIds.png"),
                ("gtFine", "b_gtFine_labelIds.png"), ("gtFine", "b_gtFine_color.png"), ("leftImg8bit", "c.jp2"),
            )],
            {"gtFine/train/x/b_gtFine_labelIds.png": "unowned", "leftImg8bit/train/x/c.jp2": "unread"},
        ),
    ],
)  # fmt: skip
def test_public_layouts_share_the_account(tmp_path, layout, entries, lost):
    for name in entries:
        put(tmp_path / name)
    for split, text in (("train", "a\n"), ("val", "")):
        put(tmp_path / f"ImageSets/Segmentation/{split}.txt")
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text(text)
    dataset = layout(Data(root=tmp_path))
    passed = dataset.account(dataset.items("train")).passed
    assert {one.path.relative_to(tmp_path).as_posix(): one.reason.value for one in passed} == lost
