"""Images and masks that are not what they seem."""

import io
import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cases.kit import (
    READY,
    RECIPE,
    Case,
    and_then,
    changed,
    file,
    image,
    labels,
    left_out,
    masks,
    moved,
    photos,
    picture,
    recipe,
    refused,
    run,
    save,
    told,
    trial,
    weights,
    write,
)

CHECK = "check r.toml"
PREDICT = "predict w.safetensors images -o out"
NFC, NFD = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))


def gray_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A gray PNG of 1, 2 or 4 bits, which Pillow cannot write."""
    pixels = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(pixels, axis=1))
    height, width = values.shape
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return write(path, b"\x89PNG\r\n\x1a\n" + body)


def low_bits(bits: int, values: np.ndarray, classes: str, only: int = 4):
    """Photos, the masks of which (the first `only`) are gray PNG of few bits."""

    def make(folder: Path) -> None:
        photos(folder, classes=classes)
        for number in range(only):
            gray_png(folder / f"masks/i{number}.png", values, bits)

    return make


def palettes(folder: Path) -> None:
    """Masks of one picture each, the palettes of which have another order."""
    photos(folder)
    for number in range(4):
        order = np.roll([0, 1, 2], number)
        mask = Image.fromarray(np.argsort(order)[labels(number)].astype(np.uint8), "P")
        mask.putpalette(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[order].tobytes())
        mask.save(folder / f"masks/i{number}.png")


def pages(name: str, arrays: list[np.ndarray], **options: object):
    """Photos, a file of which has several pages."""

    def make(folder: Path) -> None:
        photos(folder)
        (folder / name).with_suffix(".png").unlink()
        first, *rest = map(Image.fromarray, arrays)
        first.save(folder / name, save_all=True, append_images=rest, **options)

    return make


def turned(folder: Path, orientation: int, side: tuple[int, int] = (32, 32)) -> None:
    """Photos, all of them JPEG that EXIF turns, with masks as stored."""
    photos(folder)
    exif = Image.Exif()
    exif[274] = orientation
    for number in range(6):
        (folder / f"images/i{number}.png").unlink()
        Image.fromarray(picture(number)).resize(side).save(folder / f"images/i{number}.jpg", exif=exif)


def avif(path: Path, number: int) -> None:
    """An AVIF file, or the bytes with which one begins."""
    out = io.BytesIO()
    try:
        Image.fromarray(picture(number)).save(out, "AVIF")
    except (KeyError, OSError):
        out = io.BytesIO(b"\0\0\0\x1cftypavif" + bytes(64))
    write(path, out.getvalue())


def all_avif(folder: Path) -> None:
    photos(folder)
    for number in range(6):
        (folder / f"images/i{number}.png").unlink()
        avif(folder / f"images/i{number}.avif", number)


def other_ending(ending: str):
    """Photos, one image of which, which has a mask, is in another format."""

    def make(folder: Path) -> None:
        photos(folder)
        (folder / "images/i1.png").unlink()
        avif(folder / f"images/i1{ending}", 1)

    return make


def special(name: str, kind: str):
    """Photos, a file of which is a folder, a pipe or a loop of links."""

    def make(folder: Path) -> None:
        path = photos(folder) / name
        path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir(parents=True)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name)

    return make


def linked(folder: Path) -> None:
    photos(folder)
    save(folder / "elsewhere/x.png", picture(9))
    (folder / "images/sub").symlink_to(folder / "elsewhere")


def float_mask(value: float, kind: type = np.float32) -> np.ndarray:
    array = labels(1).astype(kind)
    array[0, 0] = value
    return array


def npy_mask(array: np.ndarray):
    """Photos, one mask of which is this array."""
    return and_then(lambda d: (d / "masks/i1.png").unlink(), lambda d: save(d / "masks/i1.npy", array))


def npy_image(array: np.ndarray, first=photos):
    """Photos, with an image that is this array."""
    return and_then(lambda d: save(d / "images/x.npy", array), first=first)


def huge_header(folder: Path) -> None:
    photos(folder)
    (folder / "masks/i1.png").unlink()
    head = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999, 9999999999999), }".ljust(117) + "\n"
    write(folder / "masks/i1.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(64))


def checkpoints(folder: Path) -> None:
    photos(folder)
    save(folder / "images/.ipynb_checkpoints/i1-checkpoint.png", picture(1))


def all_ignored(folder: Path) -> None:
    masks(np.full((32, 32), 255, np.uint8))(folder)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
TWO = np.where(labels(0) > 0, 255, 0).astype(np.uint8)
FIFTEEN = np.where(labels(0) > 0, 15, 0).astype(np.uint8)
SIXTEEN = "[" + ", ".join(f'"c{n}"' for n in range(16)) + "]"

CASES: list[Case] = [
    told(
        "img-half-masks-misnamed",
        "2 of 4 masks are `i0_mask.png`",
        moved(("masks/i0.png", "masks/i0_mask.png"), ("masks/i1.png", "masks/i1_mask.png")),
        CHECK,
        "i0_mask",
    ),
    told(
        "img-orphan-masks",
        "5 masks `typoN.png`",
        and_then(lambda d: [save(d / f"masks/typo{n}.png", labels(n)) for n in range(5)]),
        CHECK,
        "typo0",
        "5",
    ),
    told(
        "img-orphan-masks-run",
        "the same, `run`",
        and_then(lambda d: [save(d / f"masks/typo{n}.png", labels(n)) for n in range(5)]),
        "run r.toml -o o",
        "typo0",
    ),
    told(
        "img-name-nfc-nfd",
        "image NFC, mask NFD",
        moved(("images/i1.png", "images/" + NFC), ("masks/i1.png", "masks/" + NFD)),
        CHECK,
        "labeled          3|labeled 3",
    ),
    told(
        "img-name-case",
        "`Photo.png`, `photo.png`",
        moved(("images/i1.png", "images/Photo.png"), ("masks/i1.png", "masks/photo.png")),
        CHECK,
        "photo.png",
    ),
    told(
        "img-name-trailing-blank", "`i1 .png` and `i1.png`", moved(("images/i1.png", "images/i1 .png")), CHECK, "i1.png"
    ),
    told("img-mask-dir", "`masks/i1.png` is a folder", special("masks/i1.png", "folder"), CHECK, "i1.png"),
    told("img-fifo-mask", "`masks/i1.png` is a pipe", special("masks/i1.png", "pipe"), CHECK, "i1.png"),
    told("img-image-avif", "an image with a mask is .avif", other_ending(".avif"), CHECK, "avif"),
    told("img-image-heic", "an image with a mask is .heic", other_ending(".heic"), CHECK, "heic"),
    told("img-image-jp2", "an image with a mask is .jp2", other_ending(".jp2"), CHECK, "jp2"),
    refused("img-all-avif", "all images are AVIF", all_avif, CHECK, "avif"),
    told(
        "img-avif-predict",
        "predict a folder with an AVIF",
        and_then(lambda d: avif(d / "images/y.avif", 7), first=weights),
        PREDICT,
        "avif",
    ),
    refused(
        "img-mask-two-ext",
        "`i0.png` right, `i0.bmp` all zero",
        image("masks/i0.bmp", np.zeros((32, 32), np.uint8)),
        CHECK,
        "i0.bmp",
        "i0.png",
    ),
    refused(
        "img-mask-overlay-jpg",
        "a preview `i0.jpg` beside the mask",
        image("masks/i0.jpg", picture(0)),
        CHECK,
        "i0.jpg",
        "i0.png",
    ),
    refused(
        "more-run-two-exts-masks-npy",
        "`i0.npy` of zeros before `i0.png`",
        image("masks/i0.npy", np.zeros((32, 32), np.uint8)),
        "run r.toml -o o",
        "i0.npy",
        "i0.png",
    ),
    told(
        "img-palette-order-index",
        "palette masks, the same index with other colors per file",
        palettes,
        CHECK,
        "color|palette",
    ),
    trial(
        "img-palette-order-color",
        "the same, classes by color",
        and_then(
            lambda d: write(d / "r.toml", changed(RECIPE, classes='{ a = "#ff0000", b = "#00ff00", c = "#0000ff" }')),
            first=palettes,
        ),
        CHECK,
        READY,
    ),
    refused(
        "img-image-i32-big",
        "a TIFF of 32 bits, up to 25 million",
        image("images/x.tif", np.arange(1024, dtype=np.int32).reshape(32, 32) * 25_000),
        CHECK,
        "x.tif",
    ),
    refused(
        "img-image-i32-negative",
        "a TIFF of 32 bits, all below 0",
        image("images/x.tif", np.full((32, 32), -5, np.int32)),
        CHECK,
        "x.tif",
    ),
    told(
        "img-hidden-folder",
        "`images/.ipynb_checkpoints/i1-checkpoint.png`",
        checkpoints,
        CHECK,
        "unlabeled        2|unlabeled 2",
        never="unlabeled 3",
    ),
    refused("img-nonfinite-ignore-all", "every mask is 255", all_ignored, CHECK, "255|ignored"),
    refused("img-run-ignore-all", "the same, `run`", all_ignored, "run r.toml -o o", "ignored|no valid|labeled pixel"),
    refused(
        "cli-eval-all-ignored",
        "the same, `eval`",
        and_then(
            lambda d: [save(d / f"masks/i{n}.png", np.full((32, 32), 255, np.uint8)) for n in range(4)], first=weights
        ),
        "eval w.safetensors",
        "ignored|no valid|labeled pixel",
    ),
    told(
        "img-mask-0-255-plain",
        "0/255 masks, two classes by list",
        masks(TWO, classes='["a", "b"]'),
        CHECK,
        "255",
        "b = 255|= 255",
    ),
    told("img-tif-multipage-mask", "a mask of three pages", pages("masks/i1.tif", [labels(1)] * 3), CHECK, "i1.tif"),
    told(
        "img-tif-multipage-image", "an image of three pages", pages("images/i1.tif", [picture(1)] * 3), CHECK, "i1.tif"
    ),
    told(
        "img-gif-animated",
        "an animated GIF",
        pages("images/i1.gif", [labels(n) * 100 for n in range(3)]),
        CHECK,
        "i1.gif",
    ),
    told("img-exif3-mask-stored", "180 degrees by EXIF, masks as stored", lambda d: turned(d, 3), CHECK, "exif"),
    told("img-exif6-square-stored", "90 degrees by EXIF, square", lambda d: turned(d, 6), CHECK, "exif"),
    refused("img-npy-0x0-unlabeled", "`.npy` of 0 x 7", npy_image(np.zeros((0, 7), np.uint8)), CHECK, "x.npy"),
    refused(
        "more-check-0x0-labeled",
        "`.npy` of 0 x 7 with mask",
        and_then(
            lambda d: save(d / "images/x.npy", np.zeros((0, 7), np.uint8)),
            lambda d: save(d / "masks/x.npy", np.zeros((0, 7), np.uint8)),
        ),
        CHECK,
        "x.npy",
    ),
    refused(
        "more-run-0x0-unlabeled", "the same, `run`", npy_image(np.zeros((0, 7), np.uint8)), "run r.toml -o o", "x.npy"
    ),
    trial(
        "cli-predict-mix-0x0",
        "predict six good images and a `.npy` of 0 x 48",
        npy_image(np.zeros((0, 48, 3), np.uint8), weights),
        PREDICT,
        "x.npy",
        "6 of 7",
        code=1,
    ),
    told("img-fifo", "`images/i1.png` is a pipe", special("images/i1.png", "pipe"), CHECK, "i1.png"),
    told(
        "more-predict-fifo",
        "predict with a pipe",
        and_then(special("images/z.png", "pipe"), first=weights),
        PREDICT,
        "z.png",
    ),
    told(
        "img-image-dir", "`images/i1.png` is a folder", special("images/i1.png", "folder"), CHECK, "i1", never="damaged"
    ),
    told(
        "img-symlink-loop",
        "`images/i1.png` is a link to itself",
        special("images/i1.png", "loop"),
        CHECK,
        "i1.png",
        never="damaged",
    ),
    told("img-symlinked-sub", "`images/sub` is a link to a folder", linked, CHECK, "3 images|sub"),
    told("img-symlinked-sub-predict", "the same, `predict`", and_then(linked, first=weights), PREDICT, "7 of 7|sub"),
    refused(
        "img-mask-float-nan",
        "a mask of floats with NaN",
        and_then(lambda d: (d / "masks/i1.png").unlink(), lambda d: save(d / "masks/i1.tif", float_mask(np.nan))),
        CHECK,
        "i1.tif",
        "nan",
        never="color mask",
    ),
    refused(
        "img-npy-nan-mask", "the same, .npy", npy_mask(float_mask(np.nan)), CHECK, "i1.npy", "nan", never="color mask"
    ),
    refused(
        "img-mask-float-inf", "a mask with inf", npy_mask(float_mask(np.inf)), CHECK, "i1.npy", "inf", never="-9223"
    ),
    refused(
        "img-npy-float-1e30-mask",
        "a mask with 1e30",
        npy_mask(float_mask(1e30)),
        CHECK,
        "i1.npy",
        "e+30|1e30",
        never="-9223",
    ),
    refused(
        "img-npy-huge-mask-values",
        "a mask of uint64 above 2^63",
        npy_mask(np.full((32, 32), 2**63 + 5, np.uint64)),
        CHECK,
        "i1.npy",
        never="-9223",
    ),
    refused(
        "more-uint64-as-minus-one",
        "2^64 - 1 in a mask, ignore_index -1",
        and_then(npy_mask(np.full((32, 32), 2**64 - 1, np.uint64)), first=recipe(ignore_index="-1")),
        CHECK,
        "i1.npy",
    ),
    *(
        refused(f"img-npy-{name}-mask", f"a mask of type {name}", npy_mask(array), CHECK, "i1.npy", never="ufunc")
        for name, array in {
            "complex": labels(1).astype(complex),
            "string": labels(1).astype(str),
            "datetime": labels(1).astype("M8[D]"),
            "struct": np.zeros((32, 32), "u1,u1"),
            "empty-channels": np.zeros((32, 32, 0), np.uint8),
        }.items()
    ),
    refused(
        "more-workers-struct-mask",
        "a mask of structs, `run`",
        npy_mask(np.zeros((32, 32), "u1,u1")),
        "run r.toml -o o",
        "i1.npy",
        never="ufunc",
    ),
    refused("img-npy-hdr-huger", "a header of 10^26 pixels", huge_header, CHECK, "i1.npy"),
    refused(
        "img-npy-truncated",
        "a `.npy` cut in the middle",
        and_then(npy_mask(labels(1)), lambda d: os.truncate(d / "masks/i1.npy", 500)),
        CHECK,
        "i1.npy",
        "truncated|cut|short|ends",
    ),
    refused(
        "img-npy-empty-channels",
        "an image of no channels",
        npy_image(np.zeros((32, 32, 0), np.uint8)),
        CHECK,
        "x.npy",
        never="data.channels = 0",
    ),
    refused(
        "img-npy-image-nan",
        "an image of floats with NaN",
        npy_image(np.full((32, 32, 3), np.nan, np.float32)),
        CHECK,
        "x.npy",
        "nan|finite",
    ),
    refused(
        "img-npy-image-above-1",
        "an image of floats up to 255",
        npy_image(picture(1).astype(np.float32)),
        CHECK,
        "x.npy",
    ),
    refused(
        "img-eps-as-png",
        "`images/x.png` is an EPS",
        file("images/x.png", EPS),
        CHECK,
        "x.png",
        never=("Ghostscript", "truncated"),
    ),
    trial(
        "xtr-gs-launched",
        "predict with an EPS called .png, a `gs` on PATH that leaves a file",
        and_then(
            lambda d: write(d / "images/x.png", EPS),
            lambda d: write(d / "bin/gs", f"#!/bin/sh\ntouch {d}/started\n").chmod(0o755),
            first=weights,
        ),
        PREDICT,
        "x.png",
        "6 of 7",
        code=1,
        proof=lambda d, _: "starts gs" if (d / "started").exists() else "",
        around={"env": {"PATH": "bin:/usr/bin:/bin"}},
    ),
    told(
        "img-bomb-warning",
        "a good image of 100 million pixels",
        image("images/x.png", np.zeros((10_000, 10_000), bool)),
        CHECK,
        never="DecompressionBomb",
        limit=60,
    ),
    trial(
        "last-grey4bit-015",
        "4-bit gray masks, class 15 of 16",
        low_bits(4, FIFTEEN, SIXTEEN),
        CHECK,
        "c15|15",
        proof=lambda _, e: (
            "c15 is none"
            if any(
                line.split()[:2] in (["c15", "none"], ["│", "c15"]) and "none" in line for line in e.out.splitlines()
            )
            else ""
        ),
        code=(0, 1),
    ),
    trial(
        "last-grey2bit-03",
        "2-bit gray masks, class 3 of 4",
        low_bits(2, np.where(labels(0) > 0, 3, 0).astype(np.uint8), '["a", "b", "c", "d"]'),
        CHECK,
        code=(0, 1),
        proof=lambda _, e: (
            "d is none"
            if any("none" in line and " d " in f" {line} ".replace("│", " ") for line in e.out.splitlines())
            else ""
        ),
    ),
    trial("last-grey2bit-012", "2-bit gray masks 0, 1, 2", low_bits(2, labels(0), '["a", "b", "c"]'), CHECK, READY),
    trial(
        "last-mask-some-1bit",
        "0/255 masks, two of them stored with 1 bit",
        and_then(
            lambda d: [Image.fromarray(TWO > 0).save(d / f"masks/i{n}.png") for n in range(2)],
            first=masks(TWO, classes="{ a = 0, b = 255 }"),
        ),
        CHECK,
        "1-bit|1 bit|" + READY,
        code=(0, 1),
    ),
    told(
        "last-mask-some-1bit-list",
        "the same, classes by list",
        and_then(
            lambda d: [Image.fromarray(TWO > 0).save(d / f"masks/i{n}.png") for n in range(2)],
            first=masks(TWO, classes='["a", "b"]'),
        ),
        CHECK,
        "255",
    ),
    refused(
        "last-image-i32-8bit",
        "a TIFF of 32 bits with values of 8 bits",
        image("images/x.tif", labels(0).astype(np.int32) * 100),
        CHECK,
        "x.tif",
    ),
    refused(
        "cli-predict-5ch",
        "predict an image of 5 channels",
        and_then(lambda d: save(d / "images/x.npy", np.zeros((32, 32, 5), np.uint8)), first=weights),
        PREDICT,
        "x.npy",
        "6 of 7",
        never="Set data.channels",
    ),
    refused(
        "more-predict-hdr-huger",
        "predict with a header of 10^26 pixels",
        and_then(huge_header, lambda d: (d / "masks/i1.npy").rename(d / "images/x.npy"), first=weights),
        PREDICT,
        "x.npy",
        "6 of 7",
    ),
    refused(
        "last-predict-two-bad-kinds",
        "predict six images, one of 0 x 5 and a text",
        and_then(
            lambda d: save(d / "images/a.npy", np.zeros((0, 5), np.uint8)),
            lambda d: write(d / "images/b.png", "no image"),
            first=weights,
        ),
        PREDICT,
        "a.npy",
        "b.png",
        "6 of 8",
    ),
    refused(
        "cli-eval-zero-sized",
        "`eval` with an image of 0 x 7",
        and_then(
            lambda d: [save(d / f"{kind}/x.npy", np.zeros((0, 7), np.uint8)) for kind in ("images", "masks")],
            first=weights,
        ),
        "eval w.safetensors --set data.val='\"1/2\"'",
        "x.npy",
    ),
    refused(
        "img-noise-truncated-png",
        "an image cut in the middle",
        and_then(lambda d: os.truncate(d / "images/i1.png", 300)),
        CHECK,
        "i1.png",
    ),
    refused(
        "img-masks-jpeg",
        "masks saved as JPEG",
        masks(TWO, suffix=".jpg", classes="{ a = 0, b = 255 }"),
        CHECK,
        "jpeg|jpg",
    ),
    trial("img-good", "nothing is wrong", photos, CHECK, READY),
    trial("img-run-good", "nothing is wrong, `run`", photos, "run r.toml -o o", "best"),
    trial(
        "img-dsstore",
        "`.DS_Store`, `._x.png`, `Thumbs.db`",
        and_then(*(lambda d, n=n: write(d / f"images/{n}", b"\0\1") for n in (".DS_Store", "._x.png", "Thumbs.db"))),
        CHECK,
        READY,
    ),
    trial(
        "img-resume-good", "resume a run that is over", run, "run r.toml -o run --resume", code=(0, 1), changes=("run",)
    ),
    left_out("img-chmod000", "as root, rights do not bite; see nob-*"),
    left_out("img-palette-dubai", "real data (18 palette masks); img-palette-order-index is its kind"),
]
