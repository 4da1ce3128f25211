"""The published labeled/unlabeled lists of the field: known by name, size and checksum, fetched on demand.

Papers are compared on fixed lists. farcluss does not ship them; `published.toml` knows where each one is published and
what it must contain, so that `get` stores exactly that list or nothing.
"""

import hashlib
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from farcluss.errors import DataError, short, suggestion

TIMEOUT = 30.0
"""Seconds without an answer after which a download fails."""


@dataclass(frozen=True)
class ListFile:
    """One list file as published.

    Attributes:
        size: images in it.
        checksum: `checksum` of their identifiers.
        url: public address.
    """

    size: int
    checksum: str
    url: str


@dataclass(frozen=True)
class PublishedList:
    """A published list.

    Attributes:
        name: what `data.labeled` calls it.
        description: one line.
        labeled: the labeled images; the only file of a single list, such as a validation list.
        unlabeled: the rest of the training images.
    """

    name: str
    description: str
    labeled: ListFile
    unlabeled: ListFile | None = None

    @property
    def files(self) -> dict[str, ListFile]:
        """The files by the name under which they are stored."""
        both = {"labeled.txt": self.labeled, "unlabeled.txt": self.unlabeled}
        return {name: file for name, file in both.items() if file}

    @property
    def substitute(self) -> str:
        """The setting that gives the same number of images without this list."""
        if self.unlabeled:
            total = self.labeled.size + self.unlabeled.size
            return f'data.labeled="1/{round(total / self.labeled.size)}"'
        if "-1_" in self.name:  # of whose rest no list is known
            return f'data.labeled="{self.name.rpartition("-")[2].replace("_", "/")}"'
        return 'data.val="val"' if self.name.endswith("-val") else 'data.labeled="all"'


def _load() -> dict[str, PublishedList]:
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    lists = {}
    for name, entry in table.items():
        files = {key: ListFile(**entry[key]) for key in ("labeled", "unlabeled") if key in entry}
        lists[name] = PublishedList(name, entry["description"], **files)
    return lists


PUBLISHED: dict[str, PublishedList] = _load()
"""Every known list by name."""


def identifier(line: str) -> str:
    """Identifier of the image that a list line names: its file name without folder, extension and `_leftImg8bit`.

    Args:
        line: `IMAGE MASK`, `IMAGE`, or a bare identifier; an identifier is its own identifier.

    Returns:
        The identifier; empty for a blank line.
    """
    fields = line.split(maxsplit=1)
    return PurePosixPath(fields[0]).stem.removesuffix("_leftImg8bit") if fields else ""


def identifiers(text: str) -> list[str]:
    """Identifiers of the lines of a list file, blank lines left out."""
    return [name for line in text.splitlines() if (name := identifier(line))]


def checksum(identifiers: Iterable[str]) -> str:
    """Checksum of a list, whatever its order: the first 16 hex digits of the SHA-256 of the sorted identifiers.

    The identifiers are joined by newlines, in UTF-8, repeats kept. Sixteen digits (64 bits)
    rule out accidental collisions and fit in a message; the lists are not security-relevant.
    """
    return hashlib.sha256("\n".join(sorted(identifiers)).encode()).hexdigest()[:16]


def find(name: str) -> PublishedList:
    """The list of that name.

    Raises:
        DataError: there is none; the message suggests a near name.
    """
    if name not in PUBLISHED:
        raise DataError(f"There is no published list {short(name)!r}{suggestion(name, PUBLISHED)}\n"
                        "`farcluss lists` shows the known ones.")  # fmt: skip
    return PUBLISHED[name]


def recognize(identifiers: Iterable[str]) -> str | None:
    """Name of the published list that is this set of images, in any order; None when there is none.

    Args:
        identifiers: identifiers, or anything that `identifier` reduces to them.
    """
    # Equal items are merged, equal identifiers are not: published lists never have one name in two folders.
    names = [identifier(item) for item in set(identifiers)]
    key = (len(names), checksum(names))
    labeled = [(known.name, known.labeled) for known in PUBLISHED.values()]
    unlabeled = [(known.name, known.unlabeled) for known in PUBLISHED.values() if known.unlabeled]
    return next((name for name, file in labeled + unlabeled if (file.size, file.checksum) == key), None)


def lists_folder() -> Path:
    """Where the lists are kept: `$FARCLUSS_DATA/lists`, or below the platform's folder for user data."""
    if folder := os.environ.get("FARCLUSS_DATA"):
        return Path(folder) / "lists"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "farcluss" / "lists"


def local(name: str) -> tuple[Path, Path | None]:
    """Paths of the labeled and the unlabeled file of a list that was fetched before; None without an unlabeled file.

    Raises:
        DataError: unknown, or not on this machine; the message says how to get it and what to do without it.
    """
    known = find(name)
    for path in _paths(known).values():
        if not path.is_file():
            raise DataError(f"The published list {name} is not on this machine: there is no {path}.\n"
                            f"Get it: farcluss lists get {name}\n"
                            f"Or use instead: --set {known.substitute}")  # fmt: skip
    return _pair(known)


def _paths(known: PublishedList) -> dict[str, Path]:
    return {file: lists_folder() / known.name / file for file in known.files}


def _pair(known: PublishedList) -> tuple[Path, Path | None]:
    paths = _paths(known)
    return paths["labeled.txt"], paths.get("unlabeled.txt")


def download(url: str) -> bytes:
    """Content at an address. Raises OSError when the download fails."""
    # Imported here, since recipes are read far more often than lists are downloaded.
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            return bytes(response.read())
    except HTTPException as error:
        raise OSError(f"broken answer: {error!r}") from error


def get(name: str, fetch: Callable[[str], bytes] = download, folder: Path | None = None) -> tuple[Path, Path | None]:
    """Fetch a list, verify it, and store it below `lists_folder()`; either all of its files are stored or none.

    Args:
        name: name of the list.
        fetch: returns the content at an address, or raises OSError.
        folder: read `labeled.txt` and `unlabeled.txt` there instead of downloading them.

    Returns:
        What `local` returns from then on.

    Raises:
        DataError: unknown list, no answer from the address, or content that is not the published list.
    """
    known = find(name)
    contents = {}
    for file, expected in known.files.items():
        source = str(folder / file) if folder else expected.url
        try:
            contents[file] = Path(source).read_bytes() if folder else fetch(source)
        except OSError as error:
            raise DataError(_unreachable(known, source, error, folder)) from error
        _verify(name, source, contents[file], expected)
    _store(known, contents)
    return _pair(known)


def _unreachable(known: PublishedList, source: str, error: OSError, folder: Path | None) -> str:
    if folder:
        return f"{known.name}: cannot read {source}: {error}\nThe folder must hold {' and '.join(known.files)}."
    by_hand = " and ".join(f"{file.url} as {name}" for name, file in known.files.items())
    return (f"{known.name}: cannot download {source}: {error}\n"
            f"By hand: save {by_hand} in one folder,\n"
            f"then run `farcluss lists get {known.name} --from FOLDER`.")  # fmt: skip


def _verify(name: str, source: str, content: bytes, expected: ListFile) -> None:
    # Undecodable bytes become replacement characters, so a binary file fails the checksum with the right message.
    names = identifiers(content.decode("utf-8-sig", errors="replace"))
    found = checksum(names)
    if (len(names), found) != (expected.size, expected.checksum):
        raise DataError(f"{source} is not the published list {name}; nothing was stored.\n"
                        f"It has {len(names):,} images, checksum {found}; "
                        f"published: {expected.size:,} images, checksum {expected.checksum}.\n"
                        f"With the right files in a folder: farcluss lists get {name} --from FOLDER")  # fmt: skip


def _store(known: PublishedList, contents: dict[str, bytes]) -> None:
    """Write all files to a temporary folder, then rename them, so that no reader sees a partial file."""
    try:
        lists_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=lists_folder()) as aside:
            for file, content in contents.items():
                Path(aside, file).write_bytes(content)
            for file, path in _paths(known).items():
                path.parent.mkdir(exist_ok=True)
                Path(aside, file).replace(path)
    except OSError as error:
        raise DataError(f"Cannot store the published list {known.name}: {error}\n"
                        "To store lists elsewhere, set the environment variable FARCLUSS_DATA.") from error  # fmt: skip
