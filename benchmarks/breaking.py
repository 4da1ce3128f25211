"""Ways to break files and command lines at random, and the commands that `fuzz.py` breaks them for."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cases import kit, scans, scenes

Rng = np.random.Generator
Break = Callable[[Path, Rng], tuple[str, list[str]]]
"""Breaks something in a folder; gives a note of what, and further words of the command line."""

ODD: list[Any] = [
    *(0, 1, -1, 2, 255, 256, 65_536, 10**6, 10**18, 10**30, 0.5, -0.5, 1e-30, 1e30, float("inf"), float("nan")),
    *(
        True,
        False,
        None,
        "",
        "a",
        "../..",
        "/",
        "1/2",
        "1/0",
        "all",
        "none",
        "val",
        "ä",
        "[/red]",
        "\x1b[31m",
        "\0",
        "%s{}{0}",
        "x" * 3000,
    ),
    *(
        [],
        [0],
        [1, 2, 3],
        [-1.0],
        [[1, 2], [3]],
        ["a", "a"],
        ["a", 1],
        {},
        {"a": 1},
        {"name": "x"},
        {"name": 7},
        [None],
    ),
]
KEYS = """
data.root data.layout data.layout.images data.layout.masks data.layout.name data.classes data.ignore_index data.val
data.labeled data.unlabeled data.crop data.scale data.flip data.flip_axes data.turns data.mean data.std data.channels
data.workers data.pack data.on_error data.palette network.name network.encoder network.pretrained
network.output_stride network.aspp_channels network.head_channels network.aspp_dilations stages.augment
stages.pseudo_label stages.weight stages.rebalance stages.contrast loss.supervised loss.unsupervised loss.contrastive
loss.warmup_steps loss.ramp_steps train.steps train.batch train.lr train.head_lr train.optimizer train.momentum
train.schedule train.ema train.seed train.accumulate train.clip train.trackers train.mixed_precision train.log_every
train.keep_checkpoints train.checkpoint_every train.max_skipped eval.every eval.mode eval.window eval.stride
eval.blend eval.scales eval.flip eval.network eval.batch eval.writer name extends data train foo.bar
""".split()
WORDS = [
    *(
        "--overwrite",
        "--resume",
        "--json",
        "--probs",
        "--entropy",
        "--overlay",
        "--debug=1",
        "-o",
        "-o=",
        "",
        "-",
        "--",
    ),
    *(
        "nope",
        "\udcff",
        "--set",
        "--with",
        "--with=r.toml",
        "--plugin=r.toml",
        "--device=cuda:9",
        "--device=",
        "é",
        ".",
    ),
    *("--workers=-1", "--split=nope", "--split=", "--data=images", "--writer=nope", "é"),
]
NAMES = [
    *("I0.png", "i0.PNG", "i0", ".png", "i0.png.png", " i0.png", "i0 .png", "i\n0.png", "i0.jpg", "i0.npy", "i0.tif"),
    *("i0.avif", "-i0.png", "[i0].png", "{i0}.png", "u\u0308.png", "\u00fc.png", "a\u2028b.png", ".hidden/i0.png"),
    *("sub/i0.png", "CON.png", "i0_mask.png", "n" * 250 + ".png", "i0.nii", "i0.geojson"),
]
DTYPES = "u1 u2 u4 u8 i1 i2 i4 i8 f2 f4 f8 c8 ? S3 U3 >u2 >f4 M8[D] O".split()
SHAPES = [
    *((0, 7), (1, 1), (32,), (32, 32), (32, 32, 1), (32, 32, 2), (32, 32, 3), (32, 32, 4), (32, 32, 5), (3, 32, 32)),
    *((16, 16), (7, 9), (32, 32, 0), (), (2, 2, 2, 2), (1, 3000), (20, 18, 16), (20, 18), (20, 18, 16, 2)),
    (20, 18, 16, 1, 1),
]


def pick(rng: Rng, values: Any) -> Any:
    """One of several, at random."""
    return values[int(rng.integers(len(values)))]


def some_file(folder: Path, rng: Rng, pattern: str) -> Path | None:
    """A file that a glob matches."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return pick(rng, found) if found else None


def on_file(pattern: str) -> Callable[[Callable[[Path, Rng], str]], Break]:
    """Turns a function that breaks one file into a `Break` of the files of a glob."""

    def outer(function: Callable[[Path, Rng], str]) -> Break:
        def inner(folder: Path, rng: Rng) -> tuple[str, list[str]]:
            path = some_file(folder, rng, pattern)
            if path is None:
                return "nothing", []
            try:
                note = function(path, rng)
            except Exception as error:  # another break came before
                note = f"too broken: {type(error).__name__}"
            return f"{path.relative_to(folder)}: {note}"[:300], []

        return inner

    return outer


def break_bytes(path: Path, rng: Rng) -> str:
    """Flip, cut, insert, repeat, zero."""
    content = bytearray(path.read_bytes())
    at, length, how = int(rng.integers(len(content) + 1)), int(rng.integers(1, 80)), int(rng.integers(6))
    if how == 0:
        content[at : at + length] = bytes(255 - byte for byte in content[at : at + length])
    elif how == 1:
        del content[at:]
    elif how == 2:
        content[at:at] = rng.bytes(length)
    elif how == 3:
        content[at : at + length] = bytes(length)
    elif how == 4:
        content += content[at:]
    elif content:
        content[at % len(content)] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"bytes {('inverted', 'cut', 'inserted', 'zeroed', 'repeated', 'bit')[how]} at {at}"


def break_array(path: Path, rng: Rng) -> str:
    """Another array in its place, under its name or as .npy."""
    shape, kind = pick(rng, SHAPES), pick(rng, DTYPES)
    values = rng.integers(0, pick(rng, [2, 3, 256, 70_000]), shape)
    array = np.asarray(values).astype(kind, casting="unsafe")
    if array.dtype.kind == "f" and array.size and rng.random() < 0.5:
        array.flat[0] = pick(rng, [np.nan, np.inf, -np.inf, 1e30 if array.itemsize > 2 else 6e4])
    ending = pick(rng, [".npy", ".tif", ".png", ".bmp", ".jpg"])
    target = path.with_suffix(ending)
    try:
        kit.save(target, array)
    except (TypeError, ValueError, OSError, KeyError, IndexError):
        target.unlink(missing_ok=True)
        target = path.with_suffix(".npy")
        np.save(target, array, allow_pickle=True)
    if target != path and rng.random() < 0.7:
        path.unlink()
    return f"is {target.suffix} {array.dtype} {array.shape}"


def break_name(path: Path, rng: Rng) -> str:
    """Rename, copy, or put something that is no file in its place."""
    how, name = int(rng.integers(6)), pick(rng, NAMES)
    target = path.parent / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if how < 2 and not target.exists():
        path.rename(target)
        return f"renamed {name!r}"
    if how == 2 and not target.exists():
        target.write_bytes(path.read_bytes())
        return f"copied as {name!r}"
    path.unlink()
    if how == 3:
        path.mkdir()
        return "is a folder"
    if how == 4:
        os.mkfifo(path)
        return "is a pipe"
    path.symlink_to(pick(rng, [path.name, "..", "/dev/zero", "/dev/null", "gone"]))
    return f"links to {os.readlink(path)}"


def break_text(path: Path, rng: Rng) -> str:
    """Lose, repeat or change a line."""
    lines = path.read_text("utf-8", "replace").split("\n")
    at, how = int(rng.integers(len(lines))), int(rng.integers(5))
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, lines[at])
    elif how == 2:
        lines[at] = lines[at][: len(lines[at]) // 2]
    elif how == 3:
        lines[at] += pick(rng, [" 17", " x/y.png", "\t", "=", "]", '"', "\u2028", "\r", "\x00", "#"])
    else:
        lines[at] = pick(rng, ["", "[data]", "a = b", "....", "x = [1,", "= 3", "images/i0.png masks/i9.png", "﻿"])
    path.write_text("\n".join(lines), "utf-8")
    now = lines[at][:60] if at < len(lines) else ""
    return f"line {at} {('lost', 'repeated', 'cut', 'longer', 'replaced')[how]}: {now!r}"


def toml(value: Any) -> str:
    """A value as TOML, or nearly so."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return "null" if value is None else json.dumps(value)


def break_value(path: Path, rng: Rng) -> str:
    """Another value for a key of a TOML file."""
    lines = path.read_text().splitlines()
    places = [at for at, line in enumerate(lines) if " = " in line]
    if not places:
        return "nothing"
    at = pick(rng, places)
    lines[at] = f"{lines[at].partition(' = ')[0]} = {toml(pick(rng, ODD))}"
    path.write_text("\n".join(lines))
    return lines[at][:80]


def set_key(folder: Path, rng: Rng) -> tuple[str, list[str]]:
    """`--set KEY=VALUE`."""
    word = f"{pick(rng, KEYS)}={toml(pick(rng, ODD))}"
    return f"--set {word[:80]!r}", ["--set", word]


def word(folder: Path, rng: Rng) -> tuple[str, list[str]]:
    """A further word."""
    found = pick(rng, WORDS)
    return f"word {found!r}", [found]


def inside(value: Any, rng: Rng) -> str:
    """Change something in a tree of JSON; gives where."""
    path = ""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = pick(rng, keys)
        path += f".{key}"
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.3:
            break
        value = value[key]
    if isinstance(value, dict) and rng.random() < 0.15:
        del value[key]
        return f"{path} lost"
    value[key] = pick(rng, ODD)
    return f"{path} = {str(value[key])[:40]!r}"


def break_card(path: Path, rng: Rng) -> str:
    """Change the metadata of a weights file, or its table of tensors."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    if rng.random() < 0.2:
        note = inside(header, rng)
    else:
        facts = json.loads(header["__metadata__"]["farcluss"])
        note = "card" + inside(facts, rng)
        header["__metadata__"]["farcluss"] = json.dumps(facts)
    kit.reseal(header, content[8 + size :])
    path.write_bytes(kit.sealed(header, content[8 + size :]))
    return note


def break_json(path: Path, rng: Rng) -> str:
    """Change something in a file of JSON, or of lines of it."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not any(lines):
        return "nothing"
    at = int(rng.integers(len(lines)))
    facts = json.loads(lines[at])
    note = inside(facts, rng)
    lines[at] = json.dumps(facts)
    path.write_text("\n".join(lines))
    return note


def break_tensors(path: Path, rng: Rng) -> str:
    """Floats that are not finite, or huge, in a weights file."""
    content = bytearray(path.read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    values = np.frombuffer(content, np.float32, (len(content) - 8 - size) // 4, 8 + size)
    value = pick(rng, [np.nan, np.inf, 1e38, 0.0])
    start = int(rng.integers(len(values)))
    values[start : start + int(rng.integers(1, 5000))] = value
    path.write_bytes(content)
    return f"tensors {value} at {start}"


def break_header(path: Path, rng: Rng) -> str:
    """A field of a NIfTI header."""
    import nibabel as nib

    image = nib.load(path)
    name = pick(
        rng,
        [
            "pixdim",
            "srow_x",
            "srow_y",
            "sform_code",
            "qform_code",
            "xyzt_units",
            "scl_slope",
            "scl_inter",
            "dim_info",
            "quatern_b",
            "qoffset_x",
            "cal_max",
        ],
    )
    raw = bytearray(image.to_bytes())
    at = image.header.structarr.dtype.fields[name][1]
    value = pick(
        rng, [struct.pack("<f", v) for v in (0, -1, 0.5, 1000, 1e30, np.nan, np.inf)] + [b"\0\1\0\2", b"\3\0\0\0"]
    )
    extra = 4 * int(rng.integers(1, 4)) if name in ("pixdim", "srow_x", "srow_y") else 0
    raw[at + extra : at + extra + len(value)] = value
    import gzip

    path.write_bytes(gzip.compress(bytes(raw)))
    return f"header {name} = {value.hex()}"


def break_volume(path: Path, rng: Rng) -> str:
    """Another array in a NIfTI file."""
    shape, kind = pick(rng, [s for s in SHAPES if s]), pick(rng, ["u1", "i2", "i4", "f4", "f8", "u8"])
    array = np.asarray(rng.integers(0, pick(rng, [1, 2, 256, 3000]), shape)).astype(kind)
    if kind[0] == "f" and array.size and rng.random() < 0.5:
        array.flat[0] = pick(rng, [np.nan, np.inf, 1e30])
    scans.nifti(path, array, np.diag([*rng.choice([1.0, -1.0, 2.0, 0.1], 3), 1.0]))
    return f"is {kind} {shape}"


def break_raster(path: Path, rng: Rng) -> str:
    """Another array, grid or nodata in a GeoTIFF."""
    kind, count = pick(rng, ["uint8", "uint16", "int16", "float32", "float64", "int32"]), int(rng.integers(1, 5))
    array = rng.integers(
        0, pick(rng, [2, 3, 255]), (count, *pick(rng, [(40, 40), (40, 40), (1, 1), (7, 9), (64, 3)]))
    ).astype(kind)
    if kind.startswith("float") and rng.random() < 0.5:
        array[0, 0] = pick(rng, [np.nan, np.inf, -9999])
    crs, nodata = pick(rng, ["EPSG:32633", "EPSG:3857", "EPSG:4326", None]), pick(rng, [None, 0, 1, -9999, np.nan])
    try:
        scenes.tif(path, array, scenes.place(int(rng.integers(5))), crs, nodata=nodata)
    except (ValueError, OverflowError):
        scenes.tif(path, array, scenes.place(1), crs)
    return f"is {kind} {array.shape}, {crs}, nodata {nodata}"


class Command(NamedTuple):
    """A command line, the folder for it, what may break, and what it may write over."""

    line: str
    make: kit.Make
    breaks: list[Break]
    writes: tuple[str, ...]


def with_lists(folder: Path) -> None:
    """Photos that two lists name."""
    kit.photos(folder, labeled='"lab.txt"', val='"val.txt"', unlabeled='"unl.txt"')
    kit.write(folder / "lab.txt", "".join(f"images/i{n}.png masks/i{n}.png\n" for n in range(3)))
    kit.write(folder / "val.txt", "images/i3.png masks/i3.png\n")
    kit.write(folder / "unl.txt", "images/i4.png\nimages/i5.png\n")


def with_polygons(folder: Path) -> None:
    scenes.polygons(("land", 0, 20), ("water", 20, 40))(folder)


PICTURES = [on_file("images/*.png")(each) for each in (break_bytes, break_array, break_name)]
MASKS = [on_file("masks/*.png")(each) for each in (break_bytes, break_array, break_name)]
RECIPE = [on_file("r.toml")(each) for each in (break_text, break_value, break_bytes)]
WEIGHTS = [
    on_file("w.safetensors")(each)
    for each in (break_card, break_card, break_card, break_bytes, break_tensors, break_name)
]
LISTS = [on_file("*.txt")(each) for each in (break_text, break_text, break_bytes, break_name)]
RUN = [
    on_file(f"run/{place}")(each)
    for place, each in [
        *(("checkpoints/*.pt", break_bytes), ("checkpoints/*", break_name), ("checkpoints/*.json", break_json)),
        *(("*.jsonl", break_json), ("*.jsonl", break_bytes), ("recipe.toml", break_text), ("*.*", break_name)),
        *(("lists/*", break_text), ("lock", break_name)),
    ]
]
PACK = [on_file("p.h5")(break_bytes)] * 3 + [on_file("p.h5")(break_name)]
SCANS = [
    on_file(f"{kind}/*.nii.gz")(each)
    for kind in ("images", "labels")
    for each in (break_header, break_volume, break_bytes, break_name)
]
SCENES = [
    on_file(f"{kind}/*")(each) for kind in ("images", "labels") for each in (break_raster, break_bytes, break_name)
]
POLYGONS = [on_file("labels/*.geojson")(each) for each in (break_json, break_json, break_text, break_name)]
ON_LINE = [set_key, word]

COMMANDS = [
    Command("check r.toml", kit.photos, PICTURES + MASKS, ()),
    Command("check r.toml", with_lists, LISTS + LISTS + PICTURES + MASKS, ()),
    Command("check r.toml", kit.photos, [*RECIPE, set_key, set_key, set_key], ("runs", "c.h5")),
    Command("run r.toml -o o", kit.photos, PICTURES + MASKS + RECIPE + ON_LINE, ("o",)),
    Command("predict w.safetensors images -o out", kit.weights, PICTURES + WEIGHTS + [word], ("out",)),
    Command("predict w.safetensors images -o out --probs --overlay --entropy", kit.weights, WEIGHTS, ("out",)),
    Command("eval w.safetensors", kit.weights, PICTURES + MASKS + WEIGHTS + ON_LINE, ()),
    Command("export w.safetensors -o x.safetensors", kit.weights, [*WEIGHTS, word], ("x.safetensors",)),
    Command("run r.toml -o run --resume --allow-changes --set train.steps=3", kit.run, RUN * 2 + [set_key], ("run",)),
    Command("pack --verify p.h5", kit.pack, PACK, ()),
    Command("check r.toml --set data.pack='\"p.h5\"'", kit.pack, PACK + MASKS, ()),
    Command("pack r.toml -o p.h5 --overwrite", kit.pack, PACK + PICTURES + MASKS + [word], ("p.h5",)),
    Command("recipes show r.toml", kit.photos, [*RECIPE, word], ()),
    Command("recipes copy r.toml c.toml", kit.photos, [*RECIPE, word], ("c.toml",)),
    Command("medical check r.toml", scans.scans, SCANS, ("cache",)),
    Command("check r.toml", scenes.rasters, SCENES, ()),
    Command("check r.toml", with_polygons, POLYGONS, ()),
]
