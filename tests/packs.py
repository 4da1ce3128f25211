"""Packing as tests do it: in this process, without workers, or in one that dies."""

import os

from trees import COARSE, FINE, make_cityscapes, make_folder, make_voc

from farcluss.data.base import Item, Sample
from farcluss.errors import DataError
from farcluss.jobs.packing import Packing
from farcluss.recipes.model import Data

SECTIONS = (
    "folder, shares", "folder, list", "voc", "voc, list", "voc, coarse masks in a list", "cityscapes",
    "cityscapes, list", "shapes", "cubes",
)  # fmt: skip


def sections(tmp_path):
    """A `[data]` section per kind of data set, each with other splits."""
    own = make_folder(tmp_path / "own")
    (own / "labeled.txt").write_text("images/image 0.jpg masks/image 0.png\n/images/day one/image 1.jpg\nimage 2\n")
    voc = make_voc(tmp_path / "voc")
    lines = [f"JPEGImages/{name}.jpg\tSegmentationClassAug/{name}.png\n" for name in (FINE[0], COARSE[2])]
    (voc / "listed.txt").write_text("".join([*lines, f"{FINE[5]}\n"]))
    streets = make_cityscapes(tmp_path / "streets")
    (streets / "listed.txt").write_text(
        "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png gtFine/x_labelTrainIds.png\njena_000000_000019\n"
    )
    common = {"crop": 16, "workers": 0, "draw_seed": 3}
    return {
        "folder, shares": Data(root=own, classes=["a", "b", "c"], labeled="1/3", val="1/5", **common),
        "folder, list": Data(root=own, classes=["a", "b", "c"], labeled="labeled.txt", val="none", **common),
        "voc": Data(root=voc, layout="voc", labeled="1/2", **common),
        "voc, list": Data(root=voc, layout={"name": "voc", "variant": "blended"}, labeled="listed.txt", **common),
        "voc, coarse masks in a list": Data(root=voc, layout="voc", labeled="listed.txt", **common),
        "cityscapes": Data(root=streets, layout="cityscapes", labeled="1/4", **common),
        "cityscapes, list": Data(root=streets, layout="cityscapes", labeled="listed.txt", **common),
        "shapes": Data(layout={"name": "shapes", "train": 9, "val": 2, "test": 1, "size": 24}, labeled="1/3", **common),
        "cubes": Data(layout="cubes", channels=2, labeled="1/2", **common | {"crop": [6, 5, 7]}),
    }


def forked(function):
    """What a function gives, as text, or how it was killed, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else text


def pack(data, path, **options):
    """Pack a recipe's data set; the `[data]` section that reads from it."""
    for _ in Packing(data, path, **options):
        pass
    return data.model_copy(update={"pack": path})


class Windows:
    """Images of all sorts: `arrays` by identifier. What `valid` says belongs to the image."""

    classes = ("a", "b", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))

    def __init__(self, arrays):
        self.arrays = arrays

    def items(self, split):
        if split != "train":
            raise DataError(f"There are no {split} images.")
        return [self.parse(name) for name in self.arrays]

    def parse(self, line):
        return Item(line, line, line if self.arrays[line].mask is not None else None)

    def size(self, item):
        return self.arrays[item.image].image.shape[1:]

    def read(self, item, window=None):
        sample = self.arrays[item.image]
        window = (...,) if window is None else window
        return Sample(
            sample.image[(slice(None), *window)],
            None if item.mask is None else sample.mask[window],
            None if sample.valid is None else sample.valid[window],
        )
