"""Finding files in folders and by globs: one set of rules for all layouts and for `predict`.

Hidden files and folders are left out, endings count in any case, and links to folders are followed, each folder once.
A file with the name of one that is found, but for the ending, belongs to it (`a.img` to `a.hdr`); texts lie anywhere.
Neither is passed over.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from farcluss.data.accounting import Passed, Reason, ending
from farcluss.errors import DataError, short

TEXTS = frozenset(
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .md .html .log .list .ini .db .py .sh .m .prj .cpg".split()
)
"""Endings of files that lie among images without being any."""


@dataclass(frozen=True)
class Found:
    """Files that were looked for, sorted, and what else lies there."""

    files: Sequence[Path] = ()
    passed: Sequence[Passed] = ()


def search(folder: Path, endings: Iterable[str]) -> Found:
    """Files with one of the endings, given in lower case, in a folder and its subfolders."""
    return _sort(_walk(folder), tuple(endings))


def search_glob(root: Path, pattern: str, endings: Iterable[str]) -> Found:
    """Files with one of the endings that a glob below `root` matches. Raises DataError for an invalid glob."""
    path = Path(pattern)
    start, parts = (Path(path.anchor), path.parts[1:]) if path.is_absolute() else (root, path.parts)

    def entries() -> Iterator[tuple[Path, str]]:
        for depth in range(len(parts)):
            for folder in start.glob("/".join(parts[:depth])) if depth else [start]:
                if folder.is_dir() and not readable(folder):
                    yield folder, "permission denied"
        for place in start.glob("/".join(parts)):
            inside = place.relative_to(start).parts
            if not any(part.startswith(".") and part not in parts for part in inside):
                yield place, _kind(place)

    try:
        return _sort(entries(), tuple(endings))
    except (ValueError, IndexError, NotImplementedError) as error:
        raise DataError(f"{short(pattern)!r} is not an image, a folder or a valid glob: {error}.") from None


def search_any(root: Path, pattern: str, endings: Iterable[str]) -> Found:
    """Files of a folder, with its subfolders, or of a glob below `root`."""
    if (root / pattern).is_dir():
        return search(root / pattern, endings)
    return search_glob(root, pattern, endings)


def readable(folder: Path) -> bool:
    """Whether a path is a folder that may be searched."""
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)


def whole(found: Found) -> Found:
    """What a search found. Raises DataError where a folder that exists could not be searched: sets would differ."""
    denied = [entry for entry in found.passed if entry.reason is Reason.DENIED and entry.path.exists()]
    if denied:
        raise DataError(
            f"{denied[0].path} cannot be searched: {denied[0].detail}.\n"
            "Change its rights, or give the layout's option as a glob that leaves it out."
        )
    return found


def only_in(folder: Path, found: Found) -> Found:
    """What a search found, without the subfolders, whose files become entries that are passed over."""
    deeper = [Passed(path, Reason.DEEPER) for path in found.files if path.parent != folder]
    files = [path for path in found.files if path.parent == folder]
    return replace(found, files=files, passed=[*found.passed, *deeper])


def _walk(top: Path) -> Iterator[tuple[Path, str]]:
    """Entries of a folder and what they are; links to folders come last, so that real paths win."""
    folders, links = [top], deque[Path]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        linked = not folders
        folder = links.popleft() if linked else folders.pop()
        try:
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in seen:
                if linked:
                    yield folder, "seen"
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as entries:
                visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            yield folder, str(error.strerror).lower()
            continue
        for entry in visible:
            path, kind = folder / entry.name, _kind(entry)
            yield path, kind
            if kind == "folder":
                (links if entry.is_symlink() else folders).append(path)


def _kind(entry: "os.DirEntry[str] | Path") -> str:
    """What an entry is."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return "broken link" if entry.is_symlink() else "pipe, socket or device"
    except OSError:
        return "broken link"


def _sort(entries: Iterable[tuple[Path, str]], endings: tuple[str, ...]) -> Found:
    files: set[Path] = set()
    passed, unread = [], []
    for path, kind in entries:
        known = path.name.lower().endswith(endings)
        if kind == "file":
            files |= {path} if known else set()
            unread += [] if known or path.suffix.lower() in TEXTS else [path]
        elif kind == "seen":
            passed.append(Passed(path, Reason.SEEN))
        elif kind in ("folder", "broken link", "pipe, socket or device"):
            passed += [Passed(path, Reason.SPECIAL, kind)] if known else []
        else:
            passed.append(Passed(path, Reason.DENIED, kind))
    owners = {(path.parent, name) for path in files for name in (path.name, *_begins(path))}
    lost = [path for path in unread if not any((path.parent, name) in owners for name in _begins(path))]
    return Found(sorted(files), [*(Passed(path, Reason.UNREAD) for path in sorted(lost)), *passed])


def _begins(path: Path) -> tuple[str, str]:
    """A file's name without its last ending, and without all that is known as one."""
    whole = ending(path)
    return path.stem, path.name[: -len(whole)] if path.name.lower().endswith(whole) else path.name
