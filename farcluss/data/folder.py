"""Your own folders: images, and masks for some of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from farcluss.data.accounting import Passed, Reason, unowned
from farcluss.data.base import Item
from farcluss.data.files import SUFFIXES, FileReader, array_channels
from farcluss.data.filesets import FileDataset, check_group, find_images, look_for
from farcluss.data.layouts import root_of
from farcluss.data.masks import build_mask_map, choose_palette
from farcluss.data.pairing import MaskFinder, Mirror, fixed_part
from farcluss.data.splits import read_list
from farcluss.errors import DataError
from farcluss.recipes.model import Data, Defaults


def mask_finder(root: Path, images: str, masks: str, suffix: str) -> MaskFinder:
    """The finder of an images option and a masks option."""
    extensions = sorted(SUFFIXES)
    return MaskFinder.of(root, images, masks, suffix, extensions, extensions)


def own_mask(finders: Sequence[MaskFinder], image: Path) -> Path | None:
    """The mask of an image by the finder with the nearest parent folder; by any finder where none has a parent folder.

    Raises:
        DataError: two finders of the same folder give different masks.
    """
    depth = max((len(f.base.parts) for f in finders if image.is_relative_to(f.base)), default=0)
    nearest = [f for f in finders if image.is_relative_to(f.base) and len(f.base.parts) == depth] or finders
    found = sorted({path for finder in nearest if (path := finder(image))})
    if len(found) > 1:
        raise DataError(
            f"The mask of {image} could be {found[0]} or {found[1]}.\n"
            "Name it in the list, or keep the images of each split in a separate folder."
        )
    return found[0] if found else None


def list_folder(pattern: str, others: Sequence[str], finder: MaskFinder, dataset: FileDataset) -> list[Item]:
    """Items of one split of a folder, without those of splits in its subfolders, and without files that are masks.

    Raises:
        DataError: there are none, an image has two masks, or two images would share one.
    """
    split = replace(dataset, mask_of=finder)
    if pattern.endswith(".txt"):
        return read_list(dataset.root / pattern, split)
    inner = [other for other in others if not other.endswith(".txt") and other != pattern]
    below = [
        other for other in inner if fixed_part(dataset.root, other).is_relative_to(fixed_part(dataset.root, pattern))
    ]
    taken = {path for other in below for path in find_images(dataset.root, other)}
    files = [path for path in find_images(dataset.root, pattern) if path not in taken]
    masks, problems = finder.all(path for path in files if not finder.where.claims(path))
    if problems:
        raise DataError(problems[0] + (f"\nThe same holds for {len(problems) - 1:,} more." if problems[1:] else ""))
    found = [split.item(path, mask) for path, mask in masks.items()]
    owned = {item.mask for item in found}
    items = [item for item in found if item.image not in owned]
    if files and not items:
        raise DataError(
            f"There are no images in {dataset.root / pattern}: each of its {len(files)} files is a mask by the "
            "layout's masks option.\nGive images and masks as patterns that fit no file of the other kind."
        )
    owners: dict[str, str] = {}
    for item in items if isinstance(finder.where, Mirror) else []:
        if item.mask and owners.setdefault(item.mask, item.image) != item.image:
            raise DataError(
                f"{item.mask} would be the mask of both {owners[item.mask]} and {item.image}.\n"
                'Give the layout\'s masks option as a pattern, such as "{up}/masks/{stem}.png".'
            )
    return items


def passed_over(
    patterns: Mapping[str, str], finders: Mapping[str, MaskFinder], dataset: FileDataset, used: Collection[str]
) -> list[Passed]:
    """Entries of the folders of images and masks that are neither in a split nor among the used files."""
    searched = {split: pattern for split, pattern in patterns.items() if not pattern.endswith(".txt")}
    found = [look_for(dataset.root, pattern) for pattern in searched.values()]
    masks = [finders[split].where.search() for split in searched]
    items = [item for split in patterns for item in dataset.items(split)]
    images = {item.image for item in items}
    owned = ({*used} | {item.mask for item in items}) - images
    among = [path for one in found for path in one.files if str(path) in owned]
    # A list may name some of the images, so that masks of others are no mistake.
    lost = [path for one in masks if searched == patterns for path in one.files if str(path) not in owned | images]
    bare = [item.image for item in items if not item.mask]
    return [
        *(entry for one in (*found, *masks) for entry in one.passed),
        *unowned(dict.fromkeys(lost), [Path(image).name for image in (*bare, *images)]),
        *(Passed(path, Reason.MASK) for path in among),
    ]


def folder_image(root: Path, images: str, identifier: str) -> Path | None:
    """The image of an identifier: its path without extension, below the root or below the images folder.

    Raises:
        DataError: two images have it.
    """
    for base in (root, root / images):
        places = (base / f"{identifier}{end}" for suffix in sorted(SUFFIXES) for end in (suffix, suffix.upper()))
        if found := [path for path in places if path.is_file()]:
            if len(found) > 1 and not found[0].samefile(found[1]):
                raise DataError(f"{identifier!r} may be {found[0]} or {found[1]}. Write the ending, too.")
            return found[0]
    return None


def folder(
    data: Data,
    *,
    images: str = "images",
    masks: str = "masks",
    val_images: str | None = None,
    val_masks: str | None = None,
    test_images: str | None = None,
    test_masks: str | None = None,
    image_suffix: str = "",
    group: str = "",
) -> FileDataset:
    """Your own folders: images, and masks for some of them.

    Paths are relative to `data.root`. Each images option is a folder (searched with its sub-folders), a glob, or a list
    file with lines `IMAGE` or `IMAGE MASK`; each masks option is a folder that mirrors the images, or a pattern such as
    `"{up}/masks/{stem}"`, with or without an extension. An image without a mask file is unlabeled.

    Args:
        images: training images.
        masks: their masks.
        val_images: validation images.
        val_masks: their masks; default: looked up as for training.
        test_images: test images, for `farcluss eval --split test`.
        test_masks: their masks; default: looked up as for training.
        image_suffix: ending of image names that mask names do not have, such as `_img`.
        group: pattern (a regular expression) whose part in brackets tells the group of an image by its path below
            `data.root`, without the ending: `"(.*)_[0-9]+"` for frames of videos. No share divides a group.
    """
    root = root_of(data)
    check_group(group)
    mask_map = build_mask_map(data, {})
    _refuse_unclear(root, images, masks)
    sources = {"train": (images, masks), "val": (val_images, val_masks), "test": (test_images, test_masks)}
    patterns = {split: pattern for split, (pattern, _) in sources.items() if pattern}
    others = {split: tuple(p for other, p in patterns.items() if other not in ("train", split)) for split in patterns}
    finders = {}
    for split, (pattern, own) in sources.items():
        if pattern:
            # A split below the training images that has no masks option uses the masks option of training.
            below = fixed_part(root, pattern).is_relative_to(fixed_part(root, images)) and not own
            finders[split] = mask_finder(root, images if below else pattern, own or masks, image_suffix)
    files = look_for(root, images).files if data.channels is None else ()
    first = next((path for path in files if not finders["train"].where.claims(path)), None)
    defaults = Defaults(channels=array_channels(str(first)), mask_values=mask_map.values)
    return FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.with_defaults(defaults).channel_count, mask_map),
        {split: partial(list_folder, patterns[split], others[split], finder) for split, finder in finders.items()},
        partial(folder_image, root, images),
        partial(own_mask, list(finders.values())),
        lists_decide=True,
        defaults=defaults,
        passed=partial(passed_over, patterns, finders),
        group=group,
    )


def _refuse_unclear(root: Path, images: str, masks: str) -> None:
    """Raise DataError where options do not say which files are images, and which are masks."""
    for name, text in (("images", images), ("masks", masks)):
        if not text.strip():
            raise DataError(f'data.layout.{name} is empty. Give a folder or a pattern; "." is data.root itself.')
    if (root / images).is_dir() and (root / masks).is_dir() and (root / images).samefile(root / masks):
        raise DataError(
            f"data.layout.images and data.layout.masks are both {images!r}, so every file may be either.\n"
            f'Give patterns, such as images = "{images}/*.jpg" and masks = "{images}/{{stem}}.png".'
        )
