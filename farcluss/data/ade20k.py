"""ADE20K, scene parsing with 150 classes."""

from typing import Literal

from farcluss.data.beside import beside
from farcluss.data.filesets import FileDataset
from farcluss.data.masks import Sources
from farcluss.recipes.model import Data

ADE20K_CLASSES = [
    name.strip()
    for name in """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""".split(",")
]


def ade20k(data: Data, *, labels: Literal["original", "shifted"] = "original") -> FileDataset:
    """ADE20K: `data.root` is the folder ADEChallengeData2016, with `images` and `annotations`.

    Args:
        labels: what masks hold. original, as in the download: 0 is no class and is ignored, class i is i + 1; shifted,
            as UniMatch V2 publishes them: class i is i, 255 is ignored.
    """
    first = 1 if labels == "original" else 0
    own: Sources = {name: [first + index] for index, name in enumerate(ADE20K_CLASSES)}
    splits = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    return beside(data, own, [0] if first else [], splits, "Set it to the folder ADEChallengeData2016.")
