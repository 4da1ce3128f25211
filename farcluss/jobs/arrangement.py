"""Which files of a folder are images and which are their masks, by names alone; told as options of a layout."""

import os
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from farcluss.annotations.reading import SPLITS

LOSSY = {".jpg", ".jpeg"}
SAMPLE, MARKS = 20, "_-."
"""Names of a folder by which endings are found, and what endings begin with."""
NAMES = re.compile(r"mask|label|^ann|segm|ground|truth|^gt|^lab$|^target", re.IGNORECASE)
"""In names of folders and files of masks."""
UNLABELED = re.compile("unlab|unann|extra", re.IGNORECASE)
"""In names of folders of images without masks, beside the one whose images have some."""
MOST_FOLDERS = 400
"""Folders that are compared with each other."""


@dataclass(frozen=True)
class Rule:
    """Where the mask of an image is.

    Attributes:
        images: part of the path of an image's folder that differs; "." where none does.
        masks: in place of it in the path of the mask.
        end: what the mask's name has behind what both begin with.
        image_end: and what the image's name has.
    """

    images: str
    masks: str
    end: str
    image_end: str = ""

    def stem(self, name: str) -> str:
        """What the names of an image and of its mask begin with, by the stem of the image."""
        return name.removesuffix(self.image_end)


@dataclass(frozen=True)
class Pairs:
    """Images and masks of a folder, by paths relative to it.

    Attributes:
        rule: by which they belong together; None where no image has a mask.
        masks: mask by image.
        images: all images, those with masks among them.
    """

    rule: Rule | None
    masks: Mapping[str, str]
    images: Sequence[str]

    def split(self, image: str) -> str:
        """The split that the folders of an image tell."""
        for part in reversed(PurePosixPath(image).parent.parts):
            words = re.split(r"[\W_]+", part.lower())
            if split := SPLITS.get(words[0]) or SPLITS.get(words[-1]):
                return split
        return "train"

    def by_split(self, root: str) -> dict[str, list[tuple[str, str | None]]]:
        """Paths of images and masks below a root, by split; to score on are only those with a mask."""
        found: dict[str, list[tuple[str, str | None]]] = {}
        for image in self.images:
            split, mask = self.split(image), self.masks.get(image)
            if mask or split == "train":
                pair = os.path.join(root, image), mask and os.path.join(root, mask)
                found.setdefault(split, []).append(pair)
        return found


def find_pairs(files: Sequence[str], refused: Collection[Rule] = ()) -> Pairs:
    """Pair files by the rule that fits most of them, but none that is refused; others are images, unless they are named
    as masks are.
    """
    folders: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in files:
        path = PurePosixPath(name)
        folders[path.parent.as_posix()][path.stem].append(name)
    found: dict[Rule, dict[str, str]] = defaultdict(dict)
    places = sorted(folders)[:MOST_FOLDERS]
    for here in places:
        for there in places:
            _match(folders[here], folders[there], here, there, found)
    known = {rule: pairs for rule, pairs in found.items() if rule not in refused}
    if not known:
        return Pairs(None, {}, list(files))
    best = max(known, key=lambda rule: (len(known[rule]), _likely(rule, known[rule]), -len(rule.end), rule.masks))
    masks = known[best]
    taken = set(masks.values())
    of_masks = {PurePosixPath(mask).parent for mask in taken} - {PurePosixPath(image).parent for image in masks}
    images = [name for name in files if name not in taken and PurePosixPath(name).parent not in of_masks
              and not _of_masks(name, best)]  # fmt: skip
    return Pairs(best, masks, images)


def _of_masks(name: str, rule: Rule) -> bool:
    """Whether a file that has no partner is no image: named as masks are, or in a folder of who knows what."""
    path = PurePosixPath(name)
    if rule.end and path.stem.endswith(rule.end):
        return True
    if rule.images == ".":
        return any(NAMES.search(part) for part in path.parent.parts)
    inside = _head(path.parent.as_posix(), rule) != path.parent.as_posix()
    return not inside and not any(UNLABELED.search(part) for part in path.parent.parts)


def _match(
    images: Mapping[str, list[str]],
    masks: Mapping[str, list[str]],
    here: str,
    there: str,
    found: dict[Rule, dict[str, str]],
) -> None:
    """Add what pairs the files of two folders, which may be the same."""
    one, other = _differing(here, there)
    for image_end, end in _endings(images, masks, here == there):
        rule = Rule(one, other, end, image_end)
        for stem, names in images.items():
            for mask in masks.get(rule.stem(stem) + end, ()) if stem.endswith(image_end) else ():
                image = next((name for name in names if name != mask), None)
                if image and PurePosixPath(mask).suffix.lower() not in LOSSY:
                    if here == there and end == image_end and PurePosixPath(image).suffix.lower() not in LOSSY:
                        continue  # of two lossless pictures with one name nobody knows which is the mask
                    found[rule][image] = mask


def _endings(images: Mapping[str, object], masks: Mapping[str, object], same: bool) -> set[tuple[str, str]]:
    """What names of images and of masks may have behind what they begin with: nothing, or what some of them have."""
    found, ordered = {("", "")}, sorted(masks)
    for stem in sorted(images)[:: max(1, len(images) // SAMPLE)]:
        place = bisect(ordered, stem)
        for other in ordered[max(0, place - 3) : place + 4]:
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(stem, other, strict=False)))
            if shared and stem[shared:] and other[shared:] and stem[shared - 1] in MARKS:
                shared -= 1  # of a_img and a_gt, the mark belongs to the endings
            ends = stem[shared:], other[shared:]
            if shared and all(not end or (end[0] in MARKS and not end[1:].isdigit()) for end in ends):
                found.add(ends)
    return {(one, other) for one, other in found if not same or other or not one}


def _differing(here: str, there: str) -> tuple[str, str]:
    """The parts of two paths between what they begin and end with alike; "." for equal ones."""
    one, other = list(PurePosixPath(here).parts), list(PurePosixPath(there).parts)
    while one and other and one[0] == other[0]:
        one.pop(0), other.pop(0)
    while one and other and one[-1] == other[-1]:
        one.pop(), other.pop()
    return "/".join(one) or ".", "/".join(other) or "."


def _likely(rule: Rule, pairs: Mapping[str, str]) -> int:
    """How much the names speak for which is the mask: the wrong way round, a rule fits just as well."""
    lossy = Counter(PurePosixPath(image).suffix.lower() in LOSSY for image in pairs)
    named = bool(NAMES.search(rule.masks)) + bool(rule.end) - bool(NAMES.search(rule.images))
    colored = -bool(re.search("color|rgb|vis", rule.masks, re.IGNORECASE))
    return 2 * (lossy[True] > lossy[False]) + 2 * named + colored


def options(pairs: Pairs) -> dict[str, str] | None:
    """The options of the layout `folder` that find the pairs; None where only lists can tell them."""
    if pairs.rule is None:
        return None
    by_split: dict[str, list[str]] = defaultdict(list)
    for image in pairs.images:
        by_split[pairs.split(image)].append(image)
    found: dict[str, str] = {}
    for split, images in sorted(by_split.items(), key=lambda pair: ("train", "val", "test").index(pair[0])):
        places = _places(pairs.rule, images)
        if places is None:
            return None
        prefix = "" if split == "train" else f"{split}_"
        found |= {f"{prefix}images": places[0], f"{prefix}masks": places[1]}
    return found if "images" in found else None


def _places(rule: Rule, images: Sequence[str]) -> tuple[str, str] | None:
    """Options of images and masks for the images of a split."""
    folders = sorted({PurePosixPath(image).parent.as_posix() for image in images})
    endings = {PurePosixPath(image).suffix for image in images}
    stem = f"{{stem:{rule.image_end}=}}" if rule.image_end else "{stem}"
    if rule.images == rule.masks == ".":  # side by side
        if len(folders) > 1 or rule.image_end:
            return None
        glob = f"{folders[0]}/*{next(iter(endings))}" if len(endings) == 1 else folders[0]
        ending = "" if rule.end else ".png"
        return (glob if not rule.end else folders[0]), f"{{dir}}/{{stem}}{rule.end}{ending}"
    if len(folders) == 1:
        mask = _swapped(folders[0], rule)
        return folders[0], mask if rule.end == rule.image_end == "" else f"{mask}/{stem}{rule.end}"
    heads = {_head(folder, rule) for folder in folders}
    if len(heads) == 1 and rule.end == rule.image_end == "":
        (head,) = heads
        place = "" if head == "." else f"{head}/"
        return f"{place}{rule.images}", f"{place}{rule.masks}"
    if all(folder.endswith(f"/{rule.images}") for folder in folders) and "/" not in rule.images + rule.masks:
        shared = [
            each[0] if len(set(each)) == 1 else "*" for each in zip(*(f.split("/") for f in folders), strict=False)
        ]
        if len({folder.count("/") for folder in folders}) == 1:
            return f"{'/'.join(shared)}/*", f"{{up}}/{rule.masks}/{stem}{rule.end}"
    return None


def _head(folder: str, rule: Rule) -> str:
    parts, wanted = PurePosixPath(folder).parts, PurePosixPath(rule.images).parts
    for start in range(len(parts) - len(wanted) + 1):
        if parts[start : start + len(wanted)] == wanted:
            return "/".join(parts[:start]) or "."
    return folder


def _swapped(folder: str, rule: Rule) -> str:
    """The folder of masks of a folder of images."""
    head = _head(folder, rule)
    rest = PurePosixPath(folder).parts[len(PurePosixPath(head).parts) + len(PurePosixPath(rule.images).parts) :]
    return PurePosixPath(head, rule.masks, *rest).as_posix()
