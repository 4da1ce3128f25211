"""Photos of one's own: the first half of the notes about them."""

from pathlib import Path

import numpy as np

from cases import kit
from cases.kit import (
    READY,
    RECIPE,
    Case,
    and_then,
    changed,
    image,
    labels,
    left_out,
    masks,
    picture,
    recipe,
    refused,
    save,
    told,
    trial,
    weights,
    write,
)

CHECK = "check r.toml"
DOCUMENTED = Path(__file__).parents[2] / "docs/examples/own_data.toml"
TINY = " ".join(
    f"--set '{key}'"
    for key in (
        'data.root="."',
        "data.workers=0",
        "data.crop=32",
        'network.encoder="test_resnet"',
        "network.pretrained=false",
        "network.aspp_channels=8",
        "network.head_channels=8",
        'stages.augment="identity"',
        "train.batch=2",
        'data.val="1/4"',
    )
)
OVERLAY = """
import numpy as np
from PIL import Image
code = go("predict", "w.safetensors", "images", "-o", "out", "--overlay")
kept = []
for n in range(6):
    rest = np.asarray(Image.open(f"out/i{n}.png")) == 0
    over = np.asarray(Image.open(f"out/i{n}_overlay.png").convert("RGB"))
    kept.append((over[rest] == np.asarray(Image.open(f"images/i{n}.png"))[rest]).all())
print("KEPT", all(kept))
"""
BINARY = np.where(labels(0) > 0, 255, 0).astype(np.uint8)
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[labels(0)]


def documented(array: np.ndarray, classes: str, name: str, what: str) -> Case:
    """The recipe of the page with one kind of mask of its own table."""

    def make(folder: Path) -> None:
        masks(array)(folder)
        text = DOCUMENTED.read_text().splitlines()
        lines = [f"classes = {classes}" if line.startswith("classes ") else line for line in text]
        write(folder / "own_data.toml", "\n".join(lines))

    return trial(name, what, make, f"check own_data.toml {TINY}", READY)


def roboflow(pattern: str) -> kit.Make:
    """`x.png`, `x_mask.png` and `_classes.csv` in one folder."""

    def make(folder: Path) -> None:
        for number in range(6):
            save(folder / f"train/p{number}.jpg", picture(number))
            save(folder / f"train/p{number}_mask.png", labels(number))
        write(folder / "train/_classes.csv", "Pixel Value, Class\n0, a\n1, b\n2, c\n")
        write(
            folder / "r.toml",
            changed(
                RECIPE,
                layout=f'{{ name = "folder", images = "{pattern}", masks = "train/{{stem}}_mask.png" }}',
                labeled='"1/2"',
            ),
        )

    return make


def one_folder(pattern: str) -> kit.Make:
    return and_then(
        lambda d: write(d / "images/i0.json", '{"shapes": []}'),
        first=recipe(layout=f'{{ name = "folder", images = "images", masks = "{pattern}" }}'),
    )


def round_trip(classes: str, values: list[int]) -> Case:
    """Predictions laid where masks were."""
    code = f"""
import shutil
import numpy as np
from PIL import Image
go("run", "r.toml", "-o", "o")
go("predict", "o/weights/last.safetensors", "images", "-o", "out")
found = set(np.unique([np.asarray(Image.open(f"out/i{{n}}.png")) for n in range(6)]).tolist())
print("VALUES", found <= {set(values)!r}, found)
for n in range(4):
    shutil.copy(f"out/i{{n}}.png", f"masks/i{{n}}.png")
sys.exit(go("check", "r.toml"))
"""
    array = np.array(values, np.uint8)[(labels(0) > 0).astype(int)]
    return trial(
        f"own-roundtrip-{'-'.join(map(str, values))}",
        f"predict, put back as masks: {classes}",
        masks(array, classes=classes),
        ["python", kit.CALLS + code],
        "VALUES True",
        changes=("masks",),
        code=(0, 1),
    )


CASES: list[Case] = [
    documented(labels(0), '["background", "apple", "leaf"]', "own-F1-indices", "the page's recipe, masks of indices"),
    documented(BINARY, "{ background = 0, object = 255 }", "own-F1-0-255", "the page's recipe, masks of 0 and 255"),
    documented(
        COLORS,
        '{ background = "#000000", apple = "#ff0000", leaf = "#00ff00" }',
        "own-F1-colors",
        "the page's recipe, masks of colors",
    ),
    documented(
        np.where(labels(0) > 0, 1, 0).astype(bool),
        '["background", "object"]',
        "own-F1-1bit",
        "the page's recipe, masks of 1 bit",
    ),
    told(
        "own-F2-0-255",
        "0/255 masks, classes by list",
        masks(BINARY, classes='["membrane", "cell"]'),
        CHECK,
        "= 255",
        "cell",
    ),
    told(
        "own-F2-third",
        "a third class that no mask has",
        masks((BINARY > 0).astype(np.uint8), classes='["background", "object", "third"]'),
        CHECK,
        "third",
        "warning|note",
    ),
    told(
        "own-F3-orphan",
        "2 of 6 masks without an image",
        and_then(lambda d: [save(d / f"masks/q{n}.png", labels(n)) for n in range(2)]),
        CHECK,
        "q0.png",
        "2 ",
    ),
    told("own-F4-roboflow", "masks among the images", roboflow("train"), CHECK, "_mask.png", never="12 images"),
    trial("own-F4-roboflow-glob", "the same with a glob", roboflow("train/*.jpg"), CHECK, READY),
    trial(
        "own-F5-float-255",
        "`model.predict` of floats 0..255",
        weights,
        ["python", kit.TRIES + "tried(np.full((3, 32, 32), 200, np.float32))"],
        "REFUSED",
    ),
    round_trip("{ background = 0, object = 255 }", [0, 255]),
    round_trip("{ object = 1, background = 0 }", [0, 1]),
    told(
        "own-F8-overlay",
        "--overlay leaves class 0 as it is",
        weights,
        ["python", kit.CALLS + OVERLAY],
        "KEPT True",
    ),
    told(
        "own-F11-same-folder", "`images` and `masks` are one folder", one_folder("images"), CHECK, "same|own mask|both"
    ),
    refused("own-F11-json", "`masks = images/{stem}.json`", one_folder("images/{stem}.json"), CHECK, "json"),
    trial(
        "own-F12-path",
        "`model.predict` of a path",
        weights,
        ["python", kit.TRIES + "tried('images/i0.png')"],
        "SAME|REFUSED",
    ),
    trial(
        "own-F12-read_image",
        "`model.predict` of what `read_image` gives",
        weights,
        ["python", kit.TRIES + "tried(__import__('farcluss.data.files').data.files.read_image('images/i0.png', 3))"],
        "SAME",
    ),
    refused(
        "own-jpegmask",
        "masks saved as JPEG",
        masks(BINARY, suffix=".jpg", classes="{ a = 0, b = 255 }"),
        CHECK,
        "jpeg|jpg",
    ),
    told(
        "own-onebit",
        "1-bit masks, classes 0 and 255",
        masks(BINARY > 0, classes="{ background = 0, object = 255 }"),
        CHECK,
        "1-bit|1 bit|" + READY,
    ),
    refused("own-half", "a mask of half the size", image("masks/i1.png", labels(1, 16)), CHECK, "i1.png"),
    refused("own-dup", "p0.jpg and p0.png, one mask", image("images/i0.jpg", picture(0)), CHECK, "i0.jpg", "i0.png"),
    trial(
        "own-odd-images",
        "gray, RGBA and smaller images",
        and_then(
            lambda d: save(d / "images/i1.png", picture(1)[..., 0]),
            lambda d: save(d / "images/i2.png", np.dstack([picture(2), np.full((32, 32), 255, np.uint8)])),
            lambda d: save(d / "images/i5.png", picture(5, 20)),
        ),
        CHECK,
        READY,
    ),
    told(
        "own-trained-on",
        "`eval` on the images that it was trained on",
        and_then(lambda d: write(d / "t.txt", "".join(f"images/i{n}.png\n" for n in range(4))), first=weights),
        "eval w.safetensors --split t.txt",
        "IoU",
    ),
    left_out("own-F7", "the export formats of annotation tools: the second half of the notes"),
    left_out("own-F9, own-F10", "minutes of silence on real data: times, not outcomes"),
]
