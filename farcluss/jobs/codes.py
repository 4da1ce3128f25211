"""What masks hold: values or colors, and which names the files beside them give to these."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from farcluss.annotations import coded
from farcluss.data.base import IGNORE
from farcluss.data.files import open_picture, read_mask
from farcluss.errors import DataError, FarclussError, counted
from farcluss.recipes.texts import read_text

MOST = 254
"""Classes of a mask: with more values or colors, a picture is a photo, or its edges are blurred."""
READ = 2000
"""Masks that are read."""
LISTS = ("class_names.txt", "classes.txt", "labels.txt", "obj.names", "names.txt")
NAMES = (coded.LABELMAP, *LISTS, coded.CLASSES, "dataset.json", "data.yaml", "classes.json")
"""Files that tools write beside masks, with names of the classes."""
COLORS = {0x000000: "black", 0xFFFFFF: "white", 0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue",
          0xFFFF00: "yellow", 0xFF00FF: "magenta", 0x00FFFF: "cyan", 0x800000: "dark red", 0x008000: "dark green",
          0x000080: "dark blue", 0x808080: "gray"}  # fmt: skip


@dataclass(frozen=True)
class Codes:
    """What the masks of a folder hold.

    Attributes:
        colors: whether they are colors.
        shares: share of the pixels of each value or color.
        masks: number of masks that were read.
        notes: what is odd.
    """

    colors: bool
    shares: dict[int, float]
    masks: int
    notes: tuple[str, ...] = ()


def read_codes(paths: Sequence[Path], tracked: Callable[[Sequence[Path]], Iterable[Path]]) -> Codes:
    """Count the values or colors of masks.

    Raises:
        DataError: they hold so many that they are no masks.
    """
    chosen = [paths[index * len(paths) // min(len(paths), READ)] for index in range(min(len(paths), READ))]
    modes, palettes = zip(*(_look(path) for path in chosen), strict=True)
    colors = any(mode == "color" for mode in modes) or len({palette for palette in palettes if palette}) > 1
    counts: Counter[int] = Counter()
    notes = []
    for path in tracked(chosen):
        array = np.asarray(read_mask(str(path), colors, white=IGNORE))
        if colors:
            wide = array.astype(np.int64)
            array = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        values, numbers = np.unique(array, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        if len(counts) > MOST:
            what = "colors" if colors else "values"
            raise DataError(f"{path} and others hold more than {MOST} {what}, so they are no masks, or were blurred.\n"
                            "Save masks as PNG, without smooth edges and without resizing.")  # fmt: skip
    if len({palette for palette in palettes if palette}) > 1:
        notes.append("masks have different palettes, so that only their colors are told apart")
    if len(paths) > READ:
        notes.append(f"{READ:,} of {len(paths):,} masks were read; `farcluss check` reads all")
    if len(counts) < 2:
        raise DataError(f"{counted(len(chosen), 'mask')} such as {chosen[0]} hold one value alone: nothing to learn.\n"
                        "Give masks in which more than one class is drawn.")  # fmt: skip
    total = sum(counts.values())
    return Codes(colors, {code: number / total for code, number in sorted(counts.items())}, len(chosen), tuple(notes))


def _look(path: Path) -> tuple[str, bytes]:
    """Whether a mask has colors, and its palette."""
    if path.suffix.lower() == ".npy":
        return "values", b""
    with open_picture(str(path)) as picture:
        if picture.mode == "P" and picture.palette:
            return "values", bytes(picture.palette.palette)
        if picture.mode not in ("RGB", "RGBA"):
            return "values", b""
        pixels = np.asarray(picture.convert("RGB"))
    gray = (pixels == pixels[..., :1]).all()
    return ("values" if gray else "color"), b""


def classes_of(codes: Codes, root: Path) -> tuple[dict[str, Any], list[str]]:
    """Keys `classes` and `ignore_index` of a section for what masks hold, and sentences on where they are from."""
    known, source = _names(root, codes.colors)
    found = list(codes.shares)
    if codes.colors:
        names = {code: known.get(code) or _color_name(code, codes) for code in found}
        return {"classes": {name: f"#{code:06x}" for code, name in names.items()}}, _said(names, codes, source)
    if set(found) <= {0, IGNORE} and IGNORE in found and not known:
        return {"classes": {"background": 0, "object": IGNORE}}, ["masks hold 0 and 255: background and object"]
    mostly = codes.shares.get(0, 0) > 0.5 or len(found) == 2
    left_out = [IGNORE] if IGNORE in found and IGNORE not in known else []
    found = [code for code in found if code not in left_out]
    last = max([*found, *known]) if known else max(found)
    names = {code: known.get(code) or ("background" if code == 0 and mostly else f"class {code}") for code in
             (range(last + 1) if _dense(found, known) else found)}  # fmt: skip
    notes = _said(names, codes, source)
    notes += ["255 is taken as not labeled, and is ignored"] if left_out else []
    if list(names) == list(range(len(names))):
        return {"classes": list(names.values())}, notes
    return {"classes": {name: code for code, name in names.items()}}, notes


def _dense(found: Sequence[int], known: dict[int, str]) -> bool:
    """Whether values count from 0, with names for those that no mask has."""
    return bool(known) and {*known} == {*range(len(known))} and max(found) < len(known)


def _said(names: dict[int, str], codes: Codes, source: str) -> list[str]:
    what = counted(len(names), "color" if codes.colors else "value")
    return [f"masks hold {what}; names from {source}" if source else f"masks hold {what}; rename the classes"]


def _color_name(code: int, codes: Codes) -> str:
    if code == 0 and codes.shares[code] == max(codes.shares.values()):
        return "background"
    return COLORS.get(code) or f"color {code:06x}"


def _names(root: Path, colors: bool) -> tuple[dict[int, str], str]:
    """Names by value or color, from a file that tools write beside masks; and that file's name."""
    for path in [
        root / name for name in (coded.LABELMAP, *LISTS, coded.CLASSES, "dataset.json", "data.yaml", "classes.json")
    ]:
        if path.is_file():
            try:
                if found := _read_names(path, colors):
                    return found, path.name
            except (FarclussError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
                continue  # the names are a help; their file may be of something else
    return {}, ""


def _read_names(path: Path, colors: bool) -> dict[int, str]:
    if path.name == coded.LABELMAP:
        found = {name: str(values[0]) for name, values in coded.labelmap(path).items()}
        return {int(color[1:], 16): name for name, color in found.items()} if colors else {}
    if colors:
        return {}
    if path.name == coded.CLASSES:
        return {int(values[0]): name for name, values in coded.values_of(path).items()}
    text = read_text(path, DataError)
    if path.suffix == ".json":
        listed = json.loads(text)
        labels = listed.get("labels", listed) if isinstance(listed, dict) else dict(enumerate(listed))
        return {int(code): str(name) for code, name in labels.items()}
    if path.suffix == ".yaml":
        names = yaml.safe_load(text)["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(code): str(name) for code, name in pairs}
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = lines[1:] if lines and lines[0] == "__ignore__" else lines  # as labelme's converter writes it
    return {code: "background" if name == "_background_" else name for code, name in enumerate(lines)}


def share_text(codes: Codes, data: dict[str, Any]) -> str:
    """How much of the pixels each class has, for people."""
    table = data["classes"]
    pairs = enumerate(table) if isinstance(table, list) else ((code, name) for name, code in table.items())
    parts = []
    for code, name in pairs:
        number = int(str(code).removeprefix("#"), 16) if isinstance(code, str) else code
        parts.append(f"{name} {100 * codes.shares.get(number, 0):.1f} %")
    return ", ".join(parts)
