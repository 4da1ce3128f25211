"""What the formats share: parsing with errors that name the file, and finding exports and their images."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farcluss.data.searching import search
from farcluss.errors import DataError, short
from farcluss.recipes.texts import read_text

T = TypeVar("T")
D = TypeVar("D")
SPLITS = {"train": "train", "training": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
"""Split by the names of folders and files in which tools put it."""
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


def parse(path: Path, kind: str, take: Callable[[Any], T]) -> T:
    """What `take` makes of a JSON file. Raises DataError where it is no JSON, or not of this kind."""
    try:
        return take(json.loads(read_text(path, DataError)))
    except MALFORMED as error:
        raise not_of_kind(path, kind, error) from None


def parse_xml(path: Path, kind: str, take: Callable[[ElementTree.Element], T]) -> T:
    """What `take` makes of the root of an XML file. Raises DataError where it is no XML, or not of this kind."""
    try:
        return take(ElementTree.fromstring(read_text(path, DataError)))
    except (ElementTree.ParseError, *MALFORMED) as error:
        raise not_of_kind(path, kind, error) from None


def parse_yaml(path: Path, kind: str, take: Callable[[Any], T]) -> T:
    """What `take` makes of a YAML file. Raises DataError where it is no YAML, or not of this kind."""
    import yaml

    try:
        return take(yaml.safe_load(read_text(path, DataError)))
    except (yaml.YAMLError, *MALFORMED) as error:
        raise not_of_kind(path, kind, error) from None


def not_of_kind(path: Path, kind: str, error: Exception) -> DataError:
    """The error for a file that is not of the kind it should be of."""
    missing = f"it has no {error}" if isinstance(error, KeyError) else short(str(error) or type(error).__name__)
    return DataError(f"{path} is not {kind}: {missing}.\nExport it again, or take it out.")


def picture(data: bytes) -> NDArray[np.bool_]:
    """Where a PNG inside a file is opaque, or not black where it has no alpha: `(H, W)`.

    Raises:
        ValueError: it is no PNG, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as found:
            if found.mode in ("RGBA", "LA") or "transparency" in found.info:
                return np.array(found.convert("RGBA"))[..., 3] > 0
            return np.array(found.convert("L")) > 0
    except (OSError, SyntaxError, zlib.error, struct.error, ValueError, Image.DecompressionBombError):
        raise ValueError("a mask is no PNG, or damaged") from None


def exports(root: Path, name: str | None, endings: Iterable[str], fits: Callable[[Path], bool]) -> list[Path]:
    """The files of an export: one that is named, or all below the root that fit.

    Raises:
        DataError: there is none.
    """
    if name is not None:
        path = root / name
        if not path.is_file():
            raise DataError(f"There is no file {path}. Check data.root and data.layout.file.")
        return [path]
    found = [path for path in search(root, endings).files if fits(path)]
    if not found:
        raise DataError(f"There is no such export in {root}: no {' or '.join(endings)} file of this format.\n"
                        "Check data.root, or name the file by data.layout.file.")  # fmt: skip
    return found


def drawings_in(
    root: Path, file: str | None, endings: Iterable[str], fits: Callable[[Path], bool], read: Callable[[Path], list[D]]
) -> dict[str, list[D]]:
    """What `read` finds in the files of an export, by the split that their names and folders tell. Raises DataError."""
    found: dict[str, list[D]] = {}
    for path in exports(root, file, endings, fits):
        found.setdefault(split_of(path, root), []).extend(read(path))
    return found


def peek(path: Path, words: Sequence[str], most: int = 1 << 16) -> bool:
    """Whether the beginning of a text has all these words: a quick look before a file is parsed."""
    try:
        with path.open("rb") as file:
            beginning = file.read(most).decode(errors="replace")
    except OSError:
        return False
    return all(word in beginning for word in words)


def split_of(path: Path, root: Path) -> str:
    """The split that folders or the name of a file tell: train where they tell none."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    for part in (*reversed(inside.parent.parts), *reversed(inside.stem.replace("-", "_").split("_"))):
        if split := SPLITS.get(part.lower()):
            return split
    return "train"


def base_name(name: str) -> str:
    """The last part of a path or address, of any system."""
    plain = name.split("?")[0] if "://" in name else name
    return PurePosixPath(PureWindowsPath(plain).as_posix()).name
