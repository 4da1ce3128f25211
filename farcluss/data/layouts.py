"""Data sets in files: a folder of one's own, PASCAL VOC, Cityscapes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Literal

from farcluss.data.base import Item, Palette, Sample, Window
from farcluss.data.files import SUFFIXES, FileReader
from farcluss.data.masks import build_mask_map, choose_palette
from farcluss.data.splits import read_list
from farcluss.errors import DataError
from farcluss.recipe import Data

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
# Name, labelId and color of the 19 classes that are scored, in the order of their labelTrainIds.
CITYSCAPES_CLASSES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CITYSCAPES_IDS = range(-1, 34)


@dataclass
class FileDataset:
    """Items in files below one root; see `farcluss.data.base.Dataset`.

    Its functions belong to modules, not to other functions, so that it can travel to worker processes.

    Attributes:
        root: folder to which ids and list lines are relative; absolute.
        splits: per split, what lists its items.
        image_of: image path of a bare identifier in a list; None when there is none.
        mask_of: mask path of an image path; None when there is none.
        lists_decide: whether a mask named in a list goes before `mask_of`. Not so where the layout has options that
            choose among several masks of one image, which the field's lists cannot know.
    """

    classes: tuple[str, ...]
    palette: Palette
    root: Path
    reader: FileReader
    splits: Mapping[str, Callable[["FileDataset"], list[Item]]]
    image_of: Callable[[str], Path | None]
    mask_of: Callable[[Path], Path | None]
    lists_decide: bool = False

    def items(self, split: str) -> list[Item]:
        """Items of a split. Raises DataError when it has none."""
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise DataError(
                f"This data set has no {split!r} images; it has {known}.\n"
                f'Give the layout\'s {split} options, a list file, or a share such as data.val = "1/5".'
            )
        return self.splits[split](self)

    def item(self, image: Path, listed: Path | None = None) -> Item:
        """The item of an image, with the mask that belongs to it where there is one."""
        image = Path(os.path.abspath(image))  # one spelling per image, so that overlaps are seen
        if listed and listed.is_file() and self.lists_decide:
            mask: Path | None = listed
        else:
            mask = next((path for path in (self.mask_of(image), listed) if path and path.is_file()), None)
        inside = image.relative_to(self.root) if image.is_relative_to(self.root) else image
        return Item(inside.with_suffix("").as_posix(), str(image), str(mask) if mask else None)

    def parse(self, line: str) -> Item:
        """The item of a list line: `IMAGE`, `IMAGE MASK` (a tab or blanks between, blanks in names) or an identifier.

        Paths are absolute or relative to the root; a slash before a relative path, as some lists have it, is skipped.
        """
        text = line.strip()
        for image, mask in _pairs(text):
            if path := self._find(image):
                return self.item(path, (self._find(mask) or self.root / mask) if mask else None)
        image_path = self.image_of(text)
        if image_path is None or not image_path.is_file():
            raise DataError(f"{text!r} names no image below {self.root}. Check data.root.")
        return self.item(image_path)

    def _find(self, name: str) -> Path | None:
        candidates = (self.root / name, self.root / name.lstrip("/"))
        return next((path for path in candidates if path.is_file()), None)

    def size(self, item: Item) -> tuple[int, ...]:
        """`(H, W)`."""
        return self.reader.size(item)

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Arrays of an item, see `FileReader.read`."""
        return self.reader.read(item, window)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """All ways to read a line as image and mask: at the tab, whole, then at each run of blanks."""
    if "\t" in text:
        image, _, mask = text.partition("\t")
        yield image.strip(), mask.strip()
        return
    yield text, ""
    for place, character in enumerate(text):
        if character == " ":
            yield text[:place].rstrip(), text[place:].lstrip()


def find_images(root: Path, pattern: str) -> list[Path]:
    """Image files of a folder (with sub-folders) or a glob below `root`, sorted. Raises DataError for none."""
    path = Path(pattern)
    start, rest = (root / path, "**/*") if (root / path).is_dir() else (root, pattern)
    if path.is_absolute() and start is root:
        start, rest = Path(path.anchor), str(path.relative_to(path.anchor))
    found = [file for file in start.glob(rest) if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    if not found:
        raise DataError(f"There are no images in {root / path}.\nCheck data.root and the layout's image options.")
    return sorted(found)


def fixed_part(root: Path, pattern: str) -> Path:
    """The folder that has all images of a folder or glob; for a list file, whose images may lie anywhere, `root`."""
    if pattern.endswith(".txt"):
        return root
    plain = pattern if (root / pattern).is_dir() else ""
    parts = Path(plain).parts or takewhile(lambda part: not set(part) & set("*?["), Path(pattern).parts)
    return Path(os.path.abspath(root.joinpath(*parts)))


@dataclass(frozen=True)
class MaskFinder:
    """From an image to its mask.

    Attributes:
        root: of the data set.
        base: folder that has the images.
        masks: folder that mirrors `base`, with any image extension, or a pattern with `{stem}` (file name without
            extension and without `suffix`), `{dir}` (folder of the image below the root) and `{up}` (its parent).
        suffix: end of the image names that the masks' names lack.
        by_name: whether an image that has no mirrored mask may have one of its bare name.
        index: for a folder, its files by path below it, without extension.
    """

    root: Path
    base: Path
    masks: str
    suffix: str
    by_name: bool
    index: Mapping[str, Path]

    @classmethod
    def of(cls, root: Path, images: str, masks: str, suffix: str) -> "MaskFinder":
        """The finder for an images option and a masks option."""
        files = sorted((root / masks).rglob("*")) if "{" not in masks else []
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        index = {path.relative_to(root / masks).with_suffix("").as_posix(): path for path in reversed(found)}
        return cls(root, fixed_part(root, images), masks, suffix, not (root / images).is_dir(), index)

    def __call__(self, image: Path) -> Path | None:
        """Where the mask of an image would be. Raises DataError for a pattern with unknown names."""
        stem = image.stem.removesuffix(self.suffix)
        if "{" not in self.masks:
            inside = image.is_relative_to(self.base)
            mirrored = image.relative_to(self.base).with_name(stem).as_posix() if inside else ""
            return self.index.get(mirrored) or (self.index.get(stem) if self.by_name else None)
        folder = image.parent.relative_to(self.root) if image.is_relative_to(self.root) else image.parent
        try:
            return self.root / self.masks.format(stem=stem, dir=folder.as_posix(), up=folder.parent.as_posix())
        except (KeyError, IndexError, ValueError, AttributeError):
            raise DataError(f"The masks pattern {self.masks!r} may hold {{stem}}, {{dir}} and {{up}} only.") from None


def own_mask(finders: Sequence[MaskFinder], image: Path) -> Path | None:
    """The mask of an image by the finder whose folder is the nearest above it; by any where none has its folder.

    Raises:
        DataError: two finders with one folder give different masks.
    """
    depth = max((len(f.base.parts) for f in finders if image.is_relative_to(f.base)), default=0)
    nearest = [f for f in finders if image.is_relative_to(f.base) and len(f.base.parts) == depth] or finders
    found = sorted({path for finder in nearest if (path := finder(image)) and path.is_file()})
    if len(found) > 1:
        raise DataError(
            f"The mask of {image} may be {found[0]} or {found[1]}.\n"
            "Name it in the list, or keep the images of each split in a folder of their own."
        )
    return found[0] if found else None


def list_folder(pattern: str, finder: MaskFinder, dataset: FileDataset) -> list[Item]:
    """Items of one split of a folder. Raises DataError for none, and for one mask of two images."""
    split = replace(dataset, mask_of=finder)
    if pattern.endswith(".txt"):
        return read_list(dataset.root / pattern, split)
    items = [split.item(path) for path in find_images(dataset.root, pattern)]
    owners: dict[str, str] = {}
    for item in items if finder.index else []:
        if item.mask and owners.setdefault(item.mask, item.image) != item.image:
            raise DataError(
                f"{item.mask} would be the mask of both {owners[item.mask]} and {item.image}.\n"
                'Give the layout\'s masks option as a pattern, such as "{up}/masks/{stem}.png".'
            )
    return items


def folder_image(root: Path, images: str, identifier: str) -> Path | None:
    """The image of an identifier: its path without extension, below the root or below the images folder."""
    places = (base / f"{identifier}{suffix}" for base in (root, root / images) for suffix in sorted(SUFFIXES))
    return next((path for path in places if path.is_file()), None)


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
) -> FileDataset:
    """A folder of one's own: images, and masks for some of them.

    Paths are relative to `data.root`. Each images option is a folder (searched with its sub-folders), a glob, or a list
    file with lines `IMAGE` or `IMAGE MASK`; each masks option a folder that mirrors the images, or a pattern such as
    `"{up}/masks/{stem}.png"`. An image without a mask file is unlabeled.

    Args:
        images: training images.
        masks: their masks.
        val_images: validation images.
        val_masks: their masks; default: looked up as for training.
        test_images: test images, for `farcluss eval --split test`.
        test_masks: their masks; default: looked up as for training.
        image_suffix: end of the image names that the masks' names lack, such as `_img`.
    """
    root = Path(os.path.abspath(data.root))
    if not root.is_dir():
        raise DataError(f"data.root = {data.root} is not a folder. Set it with --set data.root=FOLDER.")
    mask_map = build_mask_map(data, {})
    sources = {"train": (images, masks), "val": (val_images, val_masks), "test": (test_images, test_masks)}
    finders = {}
    for split, (pattern, own) in sources.items():
        if pattern:
            # Without masks of its own, a split below the training images has them where those have theirs.
            below = fixed_part(root, pattern).is_relative_to(fixed_part(root, images)) and not own
            finders[split] = MaskFinder.of(root, images if below else pattern, own or masks, image_suffix)
    return FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {split: partial(list_folder, str(sources[split][0]), finder) for split, finder in finders.items()},
        partial(folder_image, root, images),
        partial(own_mask, list(finders.values())),
        lists_decide=True,
    )


def voc(data: Data, *, variant: Literal["classic", "blended"] = "classic") -> FileDataset:
    """PASCAL VOC 2012: `data.root` is the folder with `JPEGImages`, `SegmentationClass` and `ImageSets`.

    Training images are those of `ImageSets/Segmentation/train.txt`, plus those with a mask in `SegmentationClassAug`
    (the SBD annotations) or a line in `ImageSets/Segmentation/train_aug.txt`; validation images never among them.

    Args:
        variant: `classic` takes only the 1464 finely annotated masks as labels, the SBD images are unlabeled; `blended`
            takes the SBD masks as labels too.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / "JPEGImages").is_dir():
        raise DataError(f"data.root = {data.root} holds no JPEGImages.\nSet it to the folder VOC2012 of the VOCdevkit.")
    masks = (root / "SegmentationClass", root / "SegmentationClassAug")
    mask_map = build_mask_map(data, {name: index for index, name in enumerate(VOC_CLASSES)})
    return FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {"train": partial(voc_train, variant == "blended"), "val": voc_val},
        partial(voc_image, root),
        partial(voc_mask, masks if variant == "classic" else masks[::-1]),
    )


def voc_image(root: Path, identifier: str) -> Path:
    """Where the image of an identifier is."""
    return root / "JPEGImages" / f"{Path(identifier).stem}.jpg"


def voc_mask(folders: Sequence[Path], image: Path) -> Path | None:
    """The mask of an image in the first of `folders` that has one."""
    return next((path for folder in folders if (path := folder / f"{image.stem}.png").is_file()), None)


def voc_names(root: Path, split: str) -> list[str]:
    """Identifiers of a list of `ImageSets/Segmentation`. Raises DataError when it is missing."""
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path} is missing.\nGive list files in data.labeled, data.unlabeled and data.val.")
    return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]


def voc_val(dataset: FileDataset) -> list[Item]:
    """Validation items."""
    return [dataset.item(voc_image(dataset.root, name)) for name in voc_names(dataset.root, "val")]


def voc_train(blended: bool, dataset: FileDataset) -> list[Item]:
    """Training items: the finely annotated ones, then those of SBD, whose masks count only when `blended`."""
    root = dataset.root
    listed = voc_names(root, "train")
    if (root / "ImageSets" / "Segmentation" / "train_aug.txt").is_file():
        extra = voc_names(root, "train_aug")
    else:
        extra = [path.stem for path in (root / "SegmentationClassAug").glob("*.png")]
    others = sorted(set(extra) - set(listed) - set(voc_names(root, "val")))
    more = [dataset.item(voc_image(root, name)) for name in others]
    return [dataset.item(voc_image(root, name)) for name in listed] + [
        item if blended else replace(item, mask=None) for item in more
    ]


def cityscapes(data: Data, *, labels: Literal["auto", "labelTrainIds", "labelIds"] = "auto") -> FileDataset:
    """Cityscapes: `data.root` is the folder with `leftImg8bit` and `gtFine`.

    Args:
        labels: which mask files to read. labelIds, which the download contains, are mapped to the 19 scored classes;
            labelTrainIds must be generated. `auto` takes labelTrainIds where the first training image has them.
    """
    root = Path(os.path.abspath(data.root))
    if not (root / "leftImg8bit").is_dir():
        raise DataError(
            f"data.root = {data.root} holds no leftImg8bit.\nSet it to the folder with leftImg8bit and gtFine."
        )
    if labels == "auto":
        generated = next((root / "gtFine").glob("*/*/*_labelTrainIds.png"), None)
        labels = "labelTrainIds" if generated else "labelIds"
    scored = {name: code for name, (code, _) in CITYSCAPES_CLASSES.items()}
    if labels == "labelTrainIds":
        scored = {name: index for index, name in enumerate(CITYSCAPES_CLASSES)}
    elif data.classes is None:
        others = [code for code in CITYSCAPES_IDS if code not in scored.values()]
        data = data.model_copy(update={"ignore_index": [*others, 255]})
    mask_map = build_mask_map(data, dict(scored))
    return FileDataset(
        mask_map.names,
        choose_palette(data, tuple(color for _, color in CITYSCAPES_CLASSES.values()), len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {split: partial(cityscapes_items, split) for split in ("train", "val", "test")},
        partial(cityscapes_image, root),
        partial(cityscapes_mask, root, labels),
    )


def cityscapes_items(split: str, dataset: FileDataset) -> list[Item]:
    """Items of a split."""
    return [dataset.item(path) for path in find_images(dataset.root, f"leftImg8bit/{split}")]


def cityscapes_image(root: Path, identifier: str) -> Path | None:
    """The image of an identifier such as `aachen_000000_000019`."""
    name = f"{Path(identifier).stem.removesuffix('_leftImg8bit')}_leftImg8bit.png"
    return next((root / "leftImg8bit").glob(f"*/*/{name}"), None)


def cityscapes_mask(root: Path, labels: str, image: Path) -> Path:
    """Where the mask of an image is."""
    split, city = image.parent.parent.name, image.parent.name
    return root / "gtFine" / split / city / f"{image.stem.removesuffix('_leftImg8bit')}_gtFine_{labels}.png"
