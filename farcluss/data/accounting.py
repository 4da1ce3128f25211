"""What folders hold that is not used, and why: one account for all layouts and for `predict`."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from farcluss.errors import some

SIMILAR = 5000
"""Names among which a similar one is looked for, which takes time."""


class Reason(StrEnum):
    """Why an entry of a folder is not used; what may cost most comes first."""

    DENIED = "denied"
    UNOWNED = "unowned"
    UNREAD = "unread"
    SPECIAL = "special"
    MASK = "mask"
    UNFIT = "unfit"
    DEEPER = "deeper"
    SEEN = "seen"


WORDS = {
    Reason.UNREAD: ("file is", "files are", "not used, as the ending is not read"),
    Reason.UNOWNED: ("mask is", "masks are", "not used, as no image has the same name"),
    Reason.MASK: ("file among the images is", "files among the images are", "not used as images, but as masks"),
    Reason.UNFIT: ("file is", "files are", "not used, as the layout expects other names"),
    Reason.DEEPER: ("file is", "files are", "not used, as subfolders are not searched"),
    Reason.SPECIAL: ("entry is", "entries are", "not used, though named like a file that is read"),
    Reason.DENIED: ("folder is", "folders are", "not searched"),
    Reason.SEEN: ("link is", "links are", "not followed, as the folder is searched already"),
}
"""By reason: one and several entries, and what is said of them."""


@dataclass(frozen=True)
class Passed:
    """An entry of a folder that is not used.

    Attributes:
        path: of it.
        reason: why.
        detail: what it is, or the name that may be meant; empty for nothing.
    """

    path: Path
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Account:
    """What is used of the folders that are searched, and what is not.

    Attributes:
        used: number of files in use.
        passed: entries that are not, each once.
    """

    used: int = 0
    passed: Sequence[Passed] = ()

    @classmethod
    def of(cls, used: Collection[object], passed: Iterable[Passed]) -> "Account":
        """The account of files in use and entries that are not; of several reasons for an entry, the first."""
        entries: dict[Path, Passed] = {}
        for entry in passed:
            entries.setdefault(entry.path, entry)
        return cls(len(used), tuple(entries.values()))

    @property
    def incomplete(self) -> bool:
        """Whether a folder could not be searched, so that nobody knows what lies in it."""
        return any(entry.reason is Reason.DENIED for entry in self.passed)

    def lines(self) -> list[str]:
        """A sentence for each reason, with the number of entries and the first of them."""
        return [_sentence(reason, entries) for reason, entries in self._by_reason()]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        passed = {
            reason.value: [{"path": str(entry.path), "detail": entry.detail} for entry in entries]
            for reason, entries in self._by_reason()
        }
        return {"found": self.used + len(self.passed), "used": self.used, "passed_over": passed}

    def _by_reason(self) -> Iterator[tuple[Reason, list[Passed]]]:
        for reason in Reason:
            if entries := [entry for entry in self.passed if entry.reason is reason]:
                yield reason, entries


def _sentence(reason: Reason, entries: Sequence[Passed]) -> str:
    one, several, said = WORDS[reason]
    if reason is Reason.UNREAD:
        counts = Counter(ending(entry.path) for entry in entries).most_common()
        shown = f"{some([f'{end} ({count})' for end, count in counts], 6)}; the first is {entries[0].path}"
    else:
        shown = some([f"{entry.path} ({entry.detail})" if entry.detail else str(entry.path) for entry in entries])
    return f"{len(entries):,} {several if entries[1:] else one} {said}: {shown}."


def ending(path: Path) -> str:
    """The ending of a file in lower case, of `a.nii.gz` both parts; says so where there is none."""
    ends = path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]
    return "".join(ends).lower() or "without an ending"


def same_name(text: str) -> str:
    """A name in the one normal form (NFC) in which names are compared: `é` may be one character or two."""
    return unicodedata.normalize("NFC", text)


def unowned(masks: Iterable[Path], images: Iterable[str]) -> list[Passed]:
    """Masks as entries that no image owns, the first of them with the image's name that may be meant."""
    found = list(masks)
    names = {_plain(Path(name).stem): name for name in islice(images, SIMILAR)} if found else {}
    near = [_near(_plain(mask.stem), names) for mask in found[:3]]
    details = [f"did you mean {name}?" if name else "" for name in near] + [""] * len(found[3:])
    return [Passed(mask, Reason.UNOWNED, detail) for mask, detail in zip(found, details, strict=True)]


def _plain(name: str) -> str:
    return same_name(name).casefold().strip()


def _near(mask: str, names: dict[str, str]) -> str:
    """The name that is equal, that begins or is begun by the mask's, or that is similar; else empty."""
    begun = [name for name in names if name and (mask.startswith(name) or name.startswith(mask))]
    similar = begun or difflib.get_close_matches(mask, names, n=1, cutoff=0.7)
    return names[max(similar, key=lambda name: (name == mask, len(name)))] if similar else ""
