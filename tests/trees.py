"""Tiny data sets on disk, in the layouts of the real ones: what tests give as `data.root`.

Every function writes below `root`, which it creates, and returns it. All pixels are a function of the file's name.
"""

import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
VOC_IGNORE, CAMVID_VOID = 255, 11
CITYSCAPES_LABEL_IDS = range(34)
FINE = [f"2007_{n:06}" for n in range(8)]
"""VOC training images with a fine mask; the first four have a coarse one as well."""
COARSE = [f"2008_{n:06}" for n in range(6)]
"""VOC training images with a coarse (SBD) mask alone."""
VOC_VAL = [f"2009_{n:06}" for n in range(3)]


def _random(path):
    return np.random.default_rng(zlib.crc32(path.name.encode()))


def write_image(path):
    """An RGB image of noise; the suffix chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_random(path).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)


def write_mask(path, values, ignore=None, palette=False):
    """A mask in blocks of 4 pixels that hold `values`, with a frame of `ignore`."""
    blocks = _random(path).choice(np.array(list(values), np.uint8), (HEIGHT // 4, WIDTH // 4))
    mask = np.kron(blocks, np.ones((4, 4), np.uint8))
    if ignore is not None:
        mask[[0, -1]] = ignore
        mask[:, [0, -1]] = ignore
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(_random(path).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def make_voc(root):
    """PASCAL VOC 2012 with SBD: `FINE` and `COARSE` to train on, `VOC_VAL` to score."""
    for name in FINE + COARSE + VOC_VAL:
        write_image(root / "JPEGImages" / f"{name}.jpg")
    for name in FINE + VOC_VAL:
        write_mask(root / "SegmentationClass" / f"{name}.png", range(21), VOC_IGNORE, palette=True)
    for name in FINE[:4] + COARSE:
        write_mask(root / "SegmentationClassAug" / f"{name}.png", range(1, 21), VOC_IGNORE)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", FINE), ("val", VOC_VAL)):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def make_cityscapes(root, labels=("labelIds",)):
    """Cityscapes as downloaded: 8 images to train on in two cities, 2 to score, 1 to test without a mask.

    `labels`: which mask files to write; `labelTrainIds` is what the data set's own script generates.
    """
    places = [("train", "aachen", 4), ("train", "jena", 4), ("val", "lindau", 2), ("test", "berlin", 1)]
    for split, city, count in places:
        for number in range(count):
            stem = f"{city}_{number:06}_000019"
            write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            for kind in labels if split != "test" else ():
                values, ignore = (CITYSCAPES_LABEL_IDS, None) if kind == "labelIds" else (range(19), 255)
                write_mask(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png", values, ignore)
    return root


def make_camvid(root):
    """CamVid: images, masks and a list `IMAGE MASK` per split: 8 to train on, 2 to score, 2 to test."""
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        lines = []
        for number in range(count):
            image, mask = (f"{kind}/{split}/{split}_{number:06}" for kind in ("images", "masks"))
            write_image(root / f"{image}.jpg")
            write_mask(root / f"{mask}.png", range(11), CAMVID_VOID)
            lines.append(f"{image}.jpg {mask}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def make_folder(root, classes=3):
    """A folder of one's own: 8 images, masks for the first 5, in mirrored folders with a sub-folder and a blank."""
    for number in range(8):
        stem = f"{'day one/' if number % 2 else ''}image {number}"
        write_image(root / "images" / f"{stem}.jpg")
        if number < 5:
            write_mask(root / "masks" / f"{stem}.png", range(classes), VOC_IGNORE)
    return root


def make_ade20k(root):
    """`images` and `annotations`: eight training and two validation images; 0 is no class."""
    for split, stem, count in (("training", "ADE_train", 8), ("validation", "ADE_val", 2)):
        for number in range(count):
            name = f"{stem}_{number + 1:08}"
            write_image(root / "images" / split / f"{name}.jpg")
            write_mask(root / "annotations" / split / f"{name}.png", range(151))
    return root
