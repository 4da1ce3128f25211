"""What `farcluss init` finds in a folder, also by plugins: a section `[data]`, and what to say of it.

A plugin takes part by an entry point of the group `farcluss.init`: a function of the folder that gives a `Proposal`, or
None where it knows nothing of what is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Proposal:
    """How to read a folder.

    Attributes:
        what: what was found, for people.
        data: keys of the section `[data]`, `layout` among them, without `root`, `crop` and `labeled`.
        labeled: images with a mask, those of the splits val and test not among them.
        unlabeled: images without.
        size: typical extent of an image, by axis.
        largest: share of the pixels of the most frequent class; 0 where it is not known.
        notes: sentences on what was decided, and why.
        base: shipped recipe to extend, such as `base/volumes.toml`; None for one of photos.
        lists: content of list files by name, which the section names.
    """

    what: str
    data: Mapping[str, Any]
    labeled: int
    unlabeled: int
    size: Sequence[int]
    largest: float = 0.0
    notes: Sequence[str] = ()
    base: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
