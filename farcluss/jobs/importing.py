"""Write the masks of an annotation export once, as PNG files with lists, so that training need not draw them."""

import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from farcluss.annotations.formats import FORMATS
from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.data.filesets import FileDataset
from farcluss.errors import RunError, counted, suggestion
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data
from farcluss.recipes.sections import Part
from farcluss.runs.folder import to_toml
from farcluss.runs.outputs import write_output


class Written(NamedTuple):
    """What was written.

    Attributes:
        data: the section `[data]` of a recipe that reads it.
        counts: by split: images, and how many of them have a mask.
    """

    data: dict[str, Any]
    counts: dict[str, tuple[int, int]]

    def text(self) -> str:
        """For people: the counts, and the section as TOML."""
        lines = [
            f"{split}: {counted(images, 'image')}, {masks:,} with a mask"
            for split, (images, masks) in self.counts.items()
        ]
        return "\n".join([*lines, "", to_toml({"data": self.data}).rstrip()])


def open_export(layout: str, source: Path, options: dict[str, Any]) -> tuple[Dataset, dict[str, list[Item]]]:
    """The data set of an export, and its images by split.

    Raises:
        FarclussError: there is no such format, or the export cannot be read; names the file.
    """
    if layout not in FORMATS:
        raise RunError(f"There is no format {layout!r}{suggestion(layout, FORMATS)}\nFormats: {', '.join(FORMATS)}.")
    dataset = build_dataset(Data(root=source, layout=Part.model_validate({"name": layout, **options})))
    assert isinstance(dataset, FileDataset)
    found = {split: dataset.items(split) for split in dataset.splits}
    return dataset, {split: items for split, items in found.items() if items}


def import_masks(
    dataset: Dataset, splits: Mapping[str, Sequence[Item]], output: Path, advance: Callable[[int], object]
) -> Written:
    """Write masks of class indices, and a list of images and masks for each split.

    Args:
        dataset: the export.
        splits: its images.
        output: folder to write, which must be new or empty.
        advance: called with the number of images that are done.

    Raises:
        FarclussError: an annotation cannot be drawn, or the folder not be written; names the file.
    """
    if output.exists() and any(output.iterdir()):
        raise RunError(f"{output} is not empty. Choose another folder with --output.")
    done = itertools.count(1)
    for split, items in splits.items():
        lines = []
        for item in items:
            lines.append(_line(dataset, item, output))
            advance(next(done))
        write_output(output / f"{split}.txt", "".join(f"{line}\n" for line in lines).encode())
    counts = {split: (len(items), sum(item.mask is not None for item in items)) for split, items in splits.items()}
    return Written(_section(dataset, output, splits), counts)


def _section(dataset: Dataset, output: Path, splits: Iterable[str]) -> dict[str, Any]:
    lists = {"images" if split == "train" else f"{split}_images": f"{split}.txt" for split in splits}
    palette = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in dataset.palette]
    layout = {"name": "folder", **lists}
    return {"root": str(output.resolve()), "layout": layout, "classes": list(dataset.classes), "palette": palette}


def _line(dataset: Dataset, item: Item, output: Path) -> str:
    """The line of an image in a list, after its mask is written."""
    if item.mask is None:
        return item.image
    mask = dataset.read(item).mask
    assert mask is not None
    path = output / "masks" / f"{item.id}.png"
    picture = Image.fromarray(mask)
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[: len(dataset.palette)] = dataset.palette
    palette[IGNORE] = 255
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_output(path, buffer.getvalue())
    return f"{item.image}\t{path.relative_to(output)}"
