"""Data sets in files: a folder of one's own, PASCAL VOC, Cityscapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
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


@dataclass(frozen=True)
class FileDataset:
    """Items in files below one root; see `farcluss.data.base.Dataset`.

    Attributes:
        root: folder to which ids and list lines are relative.
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
    splits: Mapping[str, Callable[[], list[Item]]]
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
        return self.splits[split]()

    def item(self, image: Path, listed: Path | None = None) -> Item:
        """The item of an image, with the mask that belongs to it where there is one."""
        candidates = (listed, self.mask_of(image)) if self.lists_decide else (self.mask_of(image), listed)
        mask = next((path for path in candidates if path and path.is_file()), None)
        inside = image.relative_to(self.root) if image.is_relative_to(self.root) else image
        return Item(inside.with_suffix("").as_posix(), str(image), str(mask) if mask else None)

    def parse(self, line: str) -> Item:
        """The item of a list line: `IMAGE`, `IMAGE MASK` (blanks or a tab between, blanks in names), or an identifier."""
        text = line.strip()
        for image, mask in _pairs(text):
            path = self.root / image
            if path.is_file():
                return self.item(path, self.root / mask if mask else None)
        image_path = self.image_of(text)
        if image_path is None or not image_path.is_file():
            raise DataError(f"there is no image {text.split()[0]!r} below {self.root}. Check data.root.")
        return self.item(image_path)

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
    """Image files of a folder (with sub-folders) or a glob below `root`, sorted. Raises DataError when there are none."""
    folder = root / pattern
    if folder.is_dir():
        found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    else:
        absolute = Path(pattern).is_absolute()
        base, glob = (Path(Path(pattern).anchor), str(Path(pattern).relative_to("/"))) if absolute else (root, pattern)
        found = [path for path in base.glob(glob) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"There are no images in {folder}.\nCheck data.root and the layout's image options.")
    return sorted(path for path in found if not path.name.startswith("."))


def mask_finder(root: Path, images: str, masks: str, suffix: str) -> Callable[[Path], Path | None]:
    """How to get from an image to its mask.

    `masks` is a folder that mirrors the image folder, with any image extension, or a pattern with `{stem}` (file name
    without extension and without `suffix`), `{dir}` (folder of the image below the root) and `{up}` (its parent).
    """
    if "{" in masks:

        def by_pattern(image: Path) -> Path | None:
            folder = image.parent.relative_to(root) if image.is_relative_to(root) else image.parent
            stem = image.stem.removesuffix(suffix)
            try:
                return root / masks.format(stem=stem, dir=folder.as_posix(), up=folder.parent.as_posix())
            except (KeyError, IndexError, ValueError):
                raise DataError(f"The masks pattern {masks!r} may hold {{stem}}, {{dir}} and {{up}} only.") from None

        return by_pattern
    base = root / images
    index = {}
    if (root / masks).is_dir():
        for path in sorted((root / masks).rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                index.setdefault(path.relative_to(root / masks).with_suffix("").as_posix(), path)

    def by_folder(image: Path) -> Path | None:
        inside = image.relative_to(base) if image.is_relative_to(base) else Path(image.name)
        stem = inside.with_name(inside.stem.removesuffix(suffix)).as_posix()
        return index.get(stem)

    return by_folder


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
    root = Path(data.root)
    if not root.is_dir():
        raise DataError(f"data.root = {root} is not a folder. Set it with --set data.root=FOLDER.")
    mask_map = build_mask_map(data, {})
    sources = {"train": (images, masks), "val": (val_images, val_masks), "test": (test_images, test_masks)}
    finders = [mask_finder(root, i, m or masks, image_suffix) for i, m in sources.values() if i]

    def mask_of(image: Path) -> Path | None:
        candidates = (finder(image) for finder in finders)
        return next((path for path in candidates if path and path.is_file()), None)

    def lister(pattern: str) -> Callable[[], list[Item]]:
        def items() -> list[Item]:
            if pattern.endswith(".txt"):
                return read_list(root / pattern, dataset)
            return [dataset.item(path) for path in find_images(root, pattern)]

        return items

    def image_of(identifier: str) -> Path | None:
        return next((p for s in sorted(SUFFIXES) if (p := root / images / f"{identifier}{s}").is_file()), None)

    dataset = FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {split: lister(pattern) for split, (pattern, _) in sources.items() if pattern},
        image_of,
        mask_of,
        lists_decide=True,
    )
    return dataset


def voc(data: Data, *, variant: Literal["classic", "blended"] = "classic") -> FileDataset:
    """PASCAL VOC 2012: `data.root` is the folder with `JPEGImages`, `SegmentationClass` and `ImageSets`.

    Training images are those of `ImageSets/Segmentation/train.txt`, plus those with a mask in `SegmentationClassAug`
    (the SBD annotations) or a line in `ImageSets/Segmentation/train_aug.txt`; validation images never among them.

    Args:
        variant: `classic` takes only the 1464 finely annotated masks as labels, the SBD images are unlabeled; `blended`
            takes the SBD masks as labels too.
    """
    root = Path(data.root)
    lists = root / "ImageSets" / "Segmentation"
    if not (root / "JPEGImages").is_dir():
        raise DataError(f"data.root = {root} holds no JPEGImages.\nSet it to the folder VOC2012 of the VOCdevkit.")
    fine, augmented = root / "SegmentationClass", root / "SegmentationClassAug"
    order = (fine, augmented) if variant == "classic" else (augmented, fine)
    mask_map = build_mask_map(data, {name: index for index, name in enumerate(VOC_CLASSES)})

    def image_of(identifier: str) -> Path:
        return root / "JPEGImages" / f"{Path(identifier).stem}.jpg"

    def mask_of(image: Path) -> Path | None:
        return next((p for folder in order if (p := folder / f"{image.stem}.png").is_file()), None)

    def names(split: str) -> list[str]:
        path = lists / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"{path} is missing.\nGive list files in data.labeled, data.unlabeled and data.val.")
        return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]

    def train() -> list[Item]:
        listed = names("train")
        extra = names("train_aug") if (lists / "train_aug.txt").is_file() else [p.stem for p in augmented.glob("*.png")]
        others = sorted(set(extra) - set(listed) - set(names("val")))
        items = [dataset.item(image_of(name)) for name in listed]
        more = [dataset.item(image_of(name)) for name in others]
        return items + [Item(i.id, i.image, i.mask if variant == "blended" else None) for i in more]

    dataset = FileDataset(
        mask_map.names,
        choose_palette(data, None, len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {"train": train, "val": lambda: [dataset.item(image_of(name)) for name in names("val")]},
        image_of,
        mask_of,
    )
    return dataset


def cityscapes(data: Data, *, labels: Literal["auto", "labelTrainIds", "labelIds"] = "auto") -> FileDataset:
    """Cityscapes: `data.root` is the folder with `leftImg8bit` and `gtFine`.

    Args:
        labels: which mask files to read. labelIds, which the download contains, are mapped to the 19 scored classes;
            labelTrainIds must be generated. `auto` takes labelTrainIds where the first training image has them.
    """
    root = Path(data.root)
    if not (root / "leftImg8bit").is_dir():
        raise DataError(f"data.root = {root} holds no leftImg8bit.\nSet it to the folder with leftImg8bit and gtFine.")
    if labels == "auto":
        generated = islice((root / "gtFine").glob("*/*/*_labelTrainIds.png"), 1)
        labels = "labelTrainIds" if list(generated) else "labelIds"
    scored = {name: code for name, (code, _) in CITYSCAPES_CLASSES.items()}
    if labels == "labelTrainIds":
        scored = {name: index for index, name in enumerate(CITYSCAPES_CLASSES)}
    elif data.classes is None:
        others = [code for code in CITYSCAPES_IDS if code not in scored.values()]
        data = data.model_copy(update={"ignore_index": [*others, 255]})
    mask_map = build_mask_map(data, dict(scored))

    def mask_of(image: Path) -> Path:
        split, city = image.parent.parent.name, image.parent.name
        stem = image.stem.removesuffix("_leftImg8bit")
        return root / "gtFine" / split / city / f"{stem}_gtFine_{labels}.png"

    def image_of(identifier: str) -> Path | None:
        name = f"{Path(identifier).stem.removesuffix('_leftImg8bit')}_leftImg8bit.png"
        return next((root / "leftImg8bit").glob(f"*/*/{name}"), None)

    def split(name: str) -> Callable[[], list[Item]]:
        return lambda: [dataset.item(path) for path in find_images(root, f"leftImg8bit/{name}")]

    dataset = FileDataset(
        mask_map.names,
        choose_palette(data, tuple(color for _, color in CITYSCAPES_CLASSES.values()), len(mask_map.names), mask_map),
        root,
        FileReader(data.channels, mask_map),
        {name: split(name) for name in ("train", "val", "test")},
        image_of,
        mask_of,
    )
    return dataset
