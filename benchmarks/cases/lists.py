"""Lists of images, shares, and packs."""

import gzip
import os
from pathlib import Path

import h5py

from cases import kit
from cases.kit import (
    READY,
    Case,
    Make,
    and_then,
    left_out,
    pack,
    photos,
    recipe,
    refused,
    run,
    told,
    trial,
    write,
)

CHECK = "check r.toml"
HANGS = Path(__file__).with_name("pack_that_hangs.h5.gz")


def listed(text: str | bytes, key: str = "labeled", **keys: str) -> Make:
    """Photos, and a list in `lab.txt` that the recipe names."""
    return and_then(lambda d: write(d / "lab.txt", text), first=recipe(**{"val": '"1/3"', key: '"lab.txt"'} | keys))


def named(name: str) -> Make:
    """Photos, one image and mask of which have this name."""

    def make(folder: Path) -> None:
        photos(folder)
        for kind in ("images", "masks"):
            (folder / f"{kind}/i1.png").rename(folder / kind / name)

    return make


def flipped(share: float) -> Make:
    """A pack, 64 bytes of which are inverted."""

    def make(folder: Path) -> None:
        path = pack(folder) / "p.h5"
        content = bytearray(path.read_bytes())
        at = int(share * len(content)) if share < 1 else int(share)
        content[at : at + 64] = bytes(255 - byte for byte in content[at : at + 64])
        path.write_bytes(content)

    return make


def hanging(folder: Path) -> None:
    """A pack in which reading an attribute never ends."""
    photos(folder)
    write(folder / "p.h5", gzip.decompress(HANGS.read_bytes()))


def attributes_gone(folder: Path) -> None:
    with h5py.File(pack(folder) / "p.h5", "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]


OWN_LISTS = """
own = [word for name in ("labeled", "val") for word in ("--set", f'data.{name}="o/lists/{name}.txt"')]
sys.exit(go("run", "r.toml", "-o", "o") or go("check", "r.toml", *own))
"""
FOUR = "".join(f"images/i{n}.png\n" for n in range(4))

CASES: list[Case] = [
    refused(
        "last-mask-list-typo",
        "a list names `masks_v2/i0.png`, which is not there",
        listed("images/i0.png masks_v2/i0.png\nimages/i1.png masks/i1.png\n"),
        CHECK,
        "masks_v2/i0.png",
        "line 1",
    ),
    refused(
        "lst-abs-mask-missing",
        "a list names `/nowhere/m.png`",
        listed("images/i0.png /nowhere/m.png\n"),
        CHECK,
        "/nowhere/m.png",
    ),
    refused(
        "lst-three-columns",
        "three columns",
        listed("images/i0.png masks/i0.png 17\nimages/i1.png masks/i1.png 17\n"),
        CHECK,
        "line 1",
    ),
    told(
        "lst-val-duplicates",
        "one image 50 times in val",
        listed("images/i0.png\n" * 50, "val"),
        CHECK,
        "twice|50|more than once|repeated|duplicate",
        never="val 50 images",
    ),
    told(
        "lst-duplicates",
        "an image twice in labeled",
        listed("images/i0.png\nimages/i0.png\nimages/i1.png\n"),
        CHECK,
        "twice|more than once|repeated|duplicate",
    ),
    told(
        "lst-duplicate-spelling",
        "one image in four spellings",
        listed("images/i0.png\n./images/i0.png\nimages/../images/i0.png\nimages/i1.png\n"),
        CHECK,
        "twice|more than once|repeated|duplicate|3 times",
    ),
    told(
        "lst-unlabeled-duplicates",
        "an image twice in unlabeled",
        listed("images/i4.png\nimages/i4.png\n", "unlabeled"),
        CHECK,
        "twice|more than once|repeated|duplicate",
    ),
    told(
        "last-mask-pattern-partly",
        "2 of 4 masks named `I0.png`",
        and_then(*(lambda d, n=n: (d / f"masks/i{n}.png").rename(d / f"masks/I{n}.png") for n in range(2))),
        CHECK,
        "I0.png",
    ),
    told(
        "more-orphan-table",
        "3 of 4 masks misnamed",
        and_then(*(lambda d, n=n: (d / f"masks/i{n}.png").rename(d / f"masks/x{n}.png") for n in range(3))),
        CHECK,
        "x0.png",
    ),
    refused(
        "lst-all-misnamed",
        "all masks misnamed",
        and_then(*(lambda d, n=n: (d / f"masks/i{n}.png").rename(d / f"masks/x{n}.png") for n in range(4))),
        CHECK,
        "x0.png",
    ),
    refused(
        "lst-unl-share", '`data.unlabeled = "1/2"`', recipe(unlabeled='"1/2"'), CHECK, "unlabeled", never="or a share"
    ),
    refused(
        "lst-unl-val", '`data.unlabeled = "val"`', recipe(unlabeled='"val"'), CHECK, "unlabeled", never="or a share"
    ),
    refused("lst-utf16", "a list in UTF-16", listed(FOUR.encode("utf-16")), CHECK, "UTF-8"),
    refused("lst-latin1", "a list in Latin-1", listed("images/größe.png\n".encode("latin-1")), CHECK, "UTF-8"),
    trial("lst-bom", "a list with a BOM", listed(b"\xef\xbb\xbf" + FOUR[:28].encode()), CHECK, READY, code=(0, 1)),
    *(
        refused(
            f"lst-{name}",
            f"a line of {name}",
            listed(text),
            CHECK,
            "lab.txt",
            "line 1",
            proof=lambda d, e: "kilobytes of letters" if len(e.text) > 2500 else "",
        )
        for name, text in {
            "long-component": "images/" + "x" * 5000 + ".png\n",
            "many-words": "word " * 5000 + "\n",
            "long-line": "x/" * 50_000 + "\n",
        }.items()
    ),
    refused(
        "lst-layout-pattern-width",
        "`{stem:>1000000}` in the pattern of masks",
        recipe(layout='{ name = "folder", images = "images", masks = "masks/{stem:>1000000}.png" }'),
        CHECK,
        "stem",
        proof=lambda d, e: "kilobytes of blanks" if len(e.text) > 2500 else "",
    ),
    refused(
        "lst-layout-pattern-attribute",
        "`{stem.__class__}`",
        recipe(layout='{ name = "folder", images = "images", masks = "masks/{stem.__class__}.png" }'),
        CHECK,
        "stem",
    ),
    *(
        trial(
            f"lst-{name}",
            f"a file name with {name}, and the lists that a run writes",
            named(file),
            ["python", kit.CALLS + OWN_LISTS],
        )
        for name, file in {
            "u2028-name": "a\u2028b.png",
            "nel-name": "a\x85b.png",
        }.items()
    ),
    refused("lst-own-lists-newline", "a file name with a line break", named("a\nb.png"), CHECK, "line break"),
    refused(
        "lst-layout-empty",
        '`images = ""`',
        recipe(layout='{ name = "folder", images = "", masks = "masks" }'),
        CHECK,
        "images",
        never="it has .",
    ),
    refused("lst-share-1e400", '`labeled = "1e400"`', recipe(labeled='"1e400"'), CHECK, "labeled"),
    refused(
        "lst-layout-starstar-mid",
        '`images = "a**b/*.png"`',
        recipe(layout='{ name = "folder", images = "a**b/*.png", masks = "masks" }'),
        CHECK,
        "a**b",
    ),
    refused("lst-missing", "a list that is not there", recipe(labeled='"nope.txt"'), CHECK, "nope.txt"),
    refused("lst-empty", "an empty list", listed(""), CHECK, "lab.txt"),
    refused(
        "lst-overlap",
        "an image in labeled and val",
        and_then(
            lambda d: write(d / "lab.txt", FOUR),
            lambda d: write(d / "v.txt", FOUR),
            first=recipe(labeled='"lab.txt"', val='"v.txt"'),
        ),
        CHECK,
        "i0.png",
    ),
    trial(
        "lst-crlf", "CR LF, blank lines", listed(b"images/i0.png\r\n\r\nimages/i1.png\r\n"), CHECK, READY, code=(0, 1)
    ),
    refused(
        "pack-hang-2100",
        "`pack --verify` of a pack whose attributes never end",
        hanging,
        "pack --verify p.h5",
        "p.h5",
        limit=30,
    ),
    refused(
        "pack-hang-2100-check", "`check` with it", hanging, CHECK + " --set 'data.pack=\"p.h5\"'", "p.h5", limit=30
    ),
    *(
        refused(
            f"pack-flip-{share}",
            "64 bytes inverted, `pack --verify`",
            flipped(share),
            "pack --verify p.h5",
            "p.h5",
            code=(0, 1),
        )
        for share in (0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98)
    ),
    refused(
        "pack-no-attributes",
        "a pack without attributes",
        attributes_gone,
        CHECK + " --set 'data.pack=\"p.h5\"'",
        "p.h5",
    ),
    refused("rec-data.pack-2", '`data.pack = "images"`', recipe(pack='"images"'), CHECK, "images", never="buf ="),
    refused(
        "cli-pack-broken",
        "a pack cut in the middle",
        and_then(lambda d: os.truncate(d / "p.h5", 5000), first=pack),
        CHECK + " --set 'data.pack=\"p.h5\"'",
        "p.h5",
    ),
    trial("pack-good", "a good pack", pack, CHECK + " --set 'data.pack=\"p.h5\"'", READY),
    trial(
        "eval-own-list",
        "`eval` on the list that a run wrote",
        run,
        "eval run/weights/last.safetensors --split run/lists/val.txt",
        "IoU",
    ),
    left_out("pack-flip-63", "63 places with a log by hand; pack-flip-* are eight of them, fuzz.py draws others"),
]
