"""What a case is, and the small files that many cases begin with."""

import hashlib
import json
import shlex
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forks import Ended
from numpy.typing import NDArray
from PIL import Image

NEVER = (
    "Traceback",
    "Error: unexpected ",
    "report it",
    "Repair or uninstall",
    "site-packages",
    "RuntimeWarning",
    "UserWarning",
)
READY = "ready to run"
SIDE = 32
TYPES = {"F32": "float32", "F16": "float16", "I64": "int64", "U8": "uint8"}
NETWORK = """
[network]
name = "deeplabv3plus"
encoder = "test_resnet"
pretrained = false
aspp_channels = 8
head_channels = 8
"""
LEARNING = """
[stages]
augment = "identity"
contrast = "none"
[loss]
warmup_steps = 0
[train]
steps = 2
batch = 2
log_every = 1
[eval]
every = 2
"""
RECIPE = f"""
[data]
root = "."
layout = {{ name = "folder", images = "images", masks = "masks" }}
classes = ["a", "b", "c"]
val = "1/4"
labeled = "all"
crop = 32
workers = 0
{NETWORK.strip()}
{LEARNING.strip()}
"""

CALLS = """
import sys, farcluss.cli as c
def go(*words):
    sys.argv = ["farcluss", *words]
    try:
        c.main()
    except SystemExit as stop:
        return stop.code or 0
"""
"""Code before that of a case which calls several commands: `go` gives the exit code of one."""
TRIES = """
import numpy as np, farcluss
model = farcluss.load("w.safetensors")
def tried(array):
    try:
        print("SAME", model.predict(array).shape)
    except farcluss.errors.FarclussError as error:
        print("REFUSED", error)
"""
"""Code before that of a case which gives something to `model.predict`."""

Make = Callable[[Path], object]
Proof = Callable[[Path, Ended], str]
"""Gives what is wrong with what a command left, or nothing."""


@dataclass(frozen=True)
class Case:
    """One trial.

    Attributes:
        name: as the notes call it.
        what: how its input is made.
        make: lays the files into an empty folder.
        argv: the command, of `farcluss` or `python CODE`; none for a case that cannot run here, `what` says why.
        codes: exit codes that are right.
        says: words, any of which (where they are separated by `|`) must be printed, for each of the tuple.
        never: words that must not be printed, besides `NEVER`.
        proof: looks at the files that it leaves.
        changes: names below the folder that the command may change or remove.
        around: environment, limits, user, standard output; see `fork_server.py`.
        limit: seconds after which it hangs.
    """

    name: str
    what: str
    make: Make
    argv: list[str]
    codes: tuple[int, ...] = (0,)
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    proof: Proof | None = None
    changes: tuple[str, ...] = ()
    around: dict[str, Any] = field(default_factory=dict)
    limit: float = 40.0


def trial(name: str, what: str, make: Make, command: str | list[str], *says: str, **more: Any) -> Case:
    """A case; a command that is text is one of `farcluss`, and `code` is an exit code or several."""
    argv = ["farcluss", *shlex.split(command)] if isinstance(command, str) else command
    code = more.pop("code", 0)
    never = more.pop("never", ())
    never = (never,) if isinstance(never, str) else never
    return Case(name, what, make, argv, code if isinstance(code, tuple) else (code,), says, never, **more)


def refused(name: str, what: str, make: Make, command: str | list[str], *says: str, **more: Any) -> Case:
    """A case that must end with exit code 1, and must not call anything ready."""
    never = more.pop("never", ())
    never = (never,) if isinstance(never, str) else never
    return trial(name, what, make, command, *says, **{"code": 1, "never": (READY, *never)} | more)


def told(name: str, what: str, make: Make, command: str | list[str], *says: str, **more: Any) -> Case:
    """A case that may be refused or not, but not without a word."""
    return trial(name, what, make, command, *says, **{"code": (0, 1)} | more)


def left_out(name: str, reason: str) -> Case:
    """A case that is not run here."""
    return Case(name, reason, lambda folder: None, [])


# Artifacts that the version on trial makes itself, once; `trials.py` sets the folder.
made = Path()


def labels(number: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    """A mask of three classes, `(side, side)` uint8: stripes, of another width for each number."""
    columns = np.arange(side) * 3 // side
    return np.ascontiguousarray(np.roll(np.tile(columns, (side, 1)), number * 2, 1).astype(np.uint8))


def picture(number: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    """An image `(side, side, 3)` uint8 whose color tells the class, with noise."""
    noise = np.random.default_rng(number).integers(0, 40, (side, side, 3))
    return np.asarray(np.eye(3)[labels(number, side)] * 180 + noise, np.uint8)


def save(path: Path, array: NDArray[Any], **options: Any) -> Path:
    """Write an array as the image that the ending says, or as .npy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def write(path: Path, text: str | bytes) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def photos(folder: Path, images: int = 6, masks: int = 4, side: int = SIDE, **recipe: str) -> Path:
    """`images/i0.png` and so on, `masks/` for the first ones, and `r.toml`; `recipe`: other values for its keys."""
    for number in range(images):
        save(folder / f"images/i{number}.png", picture(number, side))
        if number < masks:
            save(folder / f"masks/i{number}.png", labels(number, side))
    write(folder / "r.toml", changed(RECIPE, **recipe))
    return folder


def changed(text: str, **keys: str) -> str:
    """A recipe with other values for some keys, as TOML."""
    lines = text.splitlines()
    for key, value in keys.items():
        places = [at for at, line in enumerate(lines) if line.startswith(f"{key} = ")]
        for at in places:
            lines[at] = f"{key} = {value}"
        if not places:
            lines.insert(lines.index("[data]") + 1, f"{key} = {value}")
    return "\n".join(lines) + "\n"


def and_then(*makes: Make, first: Make = photos) -> Make:
    """`photos`, then what each of `makes` does to the folder."""

    def make(folder: Path) -> None:
        for each in (first, *makes):
            each(folder)

    return make


def image(name: str, array: NDArray[Any], **options: Any) -> Make:
    """Photos, with another file."""
    return and_then(lambda folder: save(folder / name, array, **options))


def file(name: str, content: str | bytes) -> Make:
    """Photos, with another file of these bytes."""
    return and_then(lambda folder: write(folder / name, content))


def moved(*pairs: tuple[str, str]) -> Make:
    """Photos, files of which have another name."""

    def make(folder: Path) -> None:
        photos(folder)
        for old, new in pairs:
            (folder / new).parent.mkdir(parents=True, exist_ok=True)
            (folder / old).rename(folder / new)

    return make


def masks(*arrays: NDArray[Any], suffix: str = ".png", **recipe: str) -> Make:
    """Photos whose masks are these; one is for all."""

    def make(folder: Path) -> None:
        photos(folder, **recipe)
        for number in range(4):
            array = arrays[number % len(arrays)]
            (folder / f"masks/i{number}.png").unlink()
            save(folder / f"masks/i{number}{suffix}", array)

    return make


def recipe(**keys: str) -> Make:
    """Photos, with other values in the recipe."""
    return lambda folder: photos(folder, **keys)


def weights(folder: Path) -> Path:
    """Photos, and `w.safetensors`, which the version on trial has trained on the like."""
    photos(folder)
    shutil.copy(made / "run/weights/last.safetensors", folder / "w.safetensors")
    return folder


def run(folder: Path) -> Path:
    """Photos, and the run directory `run`."""
    photos(folder)
    shutil.copytree(made / "run", folder / "run")
    return folder


def pack(folder: Path) -> Path:
    """Photos, and `p.h5`, a pack of them."""
    photos(folder)
    shutil.copy(made / "p.h5", folder / "p.h5")
    return folder


def card(change: Callable[[dict[str, Any]], object] | None = None, raw: str | None = None) -> Make:
    """`weights`, the metadata of which is changed: the decoded one, or as text."""

    def make(folder: Path) -> None:
        content = (weights(folder) / "w.safetensors").read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        facts = json.loads(header["__metadata__"]["farcluss"])
        if change:
            change(facts)
        header["__metadata__"]["farcluss"] = json.dumps(facts) if raw is None else raw
        if raw is None:
            reseal(header, content[8 + size :])
        write(folder / "w.safetensors", sealed(header, content[8 + size :]))

    return make


def card_with(**changes: Any) -> Make:
    """`card`, some keys of which have other values."""
    return card(lambda facts: facts.update(changes))


def inference(**changes: Any) -> Make:
    """`card`, some of the settings of inference of which have other values."""
    return card(lambda facts: facts["inference"].update(changes))


def sealed(header: dict[str, Any], tensors: bytes) -> bytes:
    """A safetensors file."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def tensors(change: Callable[[NDArray[np.float32]], object]) -> Make:
    """`weights`, whose first floats are changed in place, as by a bad disk."""

    def make(folder: Path) -> None:
        path = weights(folder) / "w.safetensors"
        content = bytearray(path.read_bytes())
        size = struct.unpack("<Q", content[:8])[0]
        rest = (len(content) - 8 - size) // 4
        change(np.frombuffer(content, np.float32, rest, 8 + size))
        path.write_bytes(content)

    return make


def reseal(header: dict[str, Any], tensors: bytes) -> None:
    """Renew the checksum in the metadata of a weights file, so that what else is in it is looked at.

    It is a SHA-256 over the JSON before it and the tensors, each with name, type and shape.
    """
    facts = json.loads(header["__metadata__"]["farcluss"])
    if not isinstance(facts, dict) or facts.pop("checksum", None) is None:
        return
    text = json.dumps(facts)
    digest = hashlib.sha256(text.encode())
    for name, entry in sorted((name, entry) for name, entry in header.items() if name != "__metadata__"):
        start, end = entry["data_offsets"]
        digest.update(f"{name} torch.{TYPES[entry['dtype']]} {tuple(entry['shape'])}".encode())
        digest.update(tensors[start:end])
    header["__metadata__"]["farcluss"] = f'{text[:-1]},"checksum":"{digest.hexdigest()}"}}'
