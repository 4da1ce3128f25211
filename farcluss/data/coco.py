"""COCO, 80 things with or without background."""

from farcluss.data.beside import beside
from farcluss.data.filesets import FileDataset
from farcluss.data.masks import Sources
from farcluss.recipes.model import Data

COCO_CLASSES = [
    name.strip()
    for name in """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
""".split(",")
]


def coco(data: Data, *, background: bool = True) -> FileDataset:
    """COCO 2017, things alone: `data.root` is the folder with `train2017`, `val2017` and `masks`.

    `masks` has an index mask of each image: 0 is background, k the k-th of the 80 things in the order of their ids.

    Args:
        background: true: background is class 0 of 81; false: it is ignored, and 80 classes are left.
    """
    own: Sources = {"background": [0]} if background else {}
    own |= {name: [1 + index] for index, name in enumerate(COCO_CLASSES)}
    splits = {"train": ("train2017", "masks"), "val": ("val2017", "masks")}
    ignored = [] if background else [0]
    return beside(data, own, ignored, splits, "Set it to the folder with train2017, val2017 and masks.")
