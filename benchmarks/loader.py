"""Seconds per training sample and core: from PNG files, from a pack, and by the pipeline that is common in the field.

python benchmarks/loader.py                 # 2048 x 1024 images, crop 801, scale 0.5 to 2
python benchmarks/loader.py --samples 40 --rounds 7

The common pipeline, written here from its description: decode the whole image, resize all of it by a random scale, pad
and crop, flip; of an unlabeled sample make two strong views by color jitter, grayscale and blur; turn every view into a
normalized float tensor. farcluss makes one crop in a worker and leaves views and normalization to the device, so what
is compared is the work of a loader process per sample. What the device has to do instead is the line `views`: as many
strong views, and normalization, of batches on the CPU. Ways take turns in every round; the median round counts.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from recording import record

from farcluss.data.base import IGNORE
from farcluss.data.crops import draw_crop
from farcluss.jobs.packing import Packing
from farcluss.learning.build import build_dataset
from farcluss.networks.normalize import Normalize
from farcluss.recipes.model import Data
from farcluss.stages.augment import Photometric
from farcluss.stages.base import PseudoLabels, Scene, View

SIZE, CROP, SCALE, CLASSES, BATCH = (1024, 2048), 801, (0.5, 2.0), 19, 5
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
WAYS = ("common", "png", "pack", "pack lzf")


# --------------------------------------------------------------------------------------------------------------------
# Images as a street scene is for a codec: smooth areas, edges, and a little noise


def write_images(root: Path, count: int) -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = np.zeros(SIZE, np.uint8)
        image = np.stack([x / 30, y / 12, (x + y) / 40], 2)
        for _ in range(60):
            kind, radius = rng.integers(CLASSES), rng.uniform(30, 250)
            inside = np.abs(x - rng.uniform(0, SIZE[1])) + np.abs(y - rng.uniform(0, SIZE[0])) < radius
            mask[inside] = kind
            image[inside] = rng.uniform(0, 255, 3)
        image += rng.normal(0, 3, image.shape)
        mask[:4] = IGNORE
        for folder, array in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number}.png")


# --------------------------------------------------------------------------------------------------------------------
# The common pipeline


def jitter(image: Image.Image) -> Image.Image:
    """Brightness, contrast and saturation by 0.5 to 1.5, hue by a quarter turn at most, in random order."""

    def hue(image: Image.Image) -> Image.Image:
        h, s, v = image.convert("HSV").split()
        turned = (np.asarray(h).astype(np.int16) + int(random.uniform(-0.25, 0.25) * 255)).astype(np.uint8)
        return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")

    changes = [hue]
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        changes.append(lambda image, kind=kind: kind(image).enhance(random.uniform(0.5, 1.5)))
    random.shuffle(changes)
    for change in changes:
        image = change(image)
    return image


def strong(image: Image.Image) -> Image.Image:
    if random.random() < 0.8:
        image = jitter(image)
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def tensor(image: Image.Image) -> torch.Tensor:
    unit = np.asarray(image, np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(((unit - MEAN) / STD).transpose(2, 0, 1)))


def common(image_path: str, mask_path: str | None) -> list[torch.Tensor]:
    image = Image.open(image_path).convert("RGB")
    mask = Image.open(mask_path) if mask_path else Image.fromarray(np.zeros(SIZE, np.uint8))
    factor = random.uniform(*SCALE)
    size = round(image.width * factor), round(image.height * factor)
    image, mask = image.resize(size, Image.BILINEAR), mask.resize(size, Image.NEAREST)
    right, below = max(CROP - size[0], 0), max(CROP - size[1], 0)
    if right or below:
        image = ImageOps.expand(image, (0, 0, right, below), 0)
        mask = ImageOps.expand(mask, (0, 0, right, below), IGNORE)
    left, top = random.randint(0, image.width - CROP), random.randint(0, image.height - CROP)
    box = left, top, left + CROP, top + CROP
    image, mask = image.crop(box), mask.crop(box)
    if random.random() < 0.5:
        image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
    target = torch.from_numpy(np.array(mask, np.int64))
    views = [image] if mask_path else [image, strong(image), strong(image)]
    return [*map(tensor, views), target]


# --------------------------------------------------------------------------------------------------------------------
# Measuring


def time_ways(ways: dict[str, Callable[[int], object]], samples: int, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds per sample of each way, a figure per round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for number in range(samples):
                way(number)
            if turn:  # the first round warms up
                times[name].append(1000 * (time.process_time() - start) / samples)
    return times


def farcluss_way(data: Data, labeled: bool) -> Callable[[int], object]:
    dataset = build_dataset(data)
    items = [item if labeled else replace(item, mask=None) for item in dataset.items("train")]

    def way(number: int) -> object:
        rng = np.random.default_rng(number)
        item = items[number % len(items)]
        return draw_crop(dataset, item, (CROP, CROP), data, rng)

    return way


def views_way() -> Callable[[int], object]:
    """What the device does to unlabeled crops that the common pipeline does in the loader, on the CPU, per batch."""
    photometric, normalize = Photometric(), Normalize(MEAN.tolist(), STD.tolist())
    crops = torch.randint(0, 256, (BATCH, 3, CROP, CROP), dtype=torch.uint8)
    valid, masks = torch.ones(BATCH, CROP, CROP, dtype=torch.bool), torch.zeros(BATCH, CROP, CROP, dtype=torch.uint8)
    sure = torch.ones(BATCH, CROP, CROP)
    labels = PseudoLabels(sure[:, None], masks[:, None].long(), sure, 1 - sure, valid)

    def way(number: int) -> object:
        if number % BATCH:
            return None
        images = crops / 255
        scene = Scene(View(images, labels), images, masks, valid, 2)
        strong = [photometric.strong(scene)[0].images for _ in range(2)]
        return [normalize(view) for view in (images, *strong)]

    return way


def measure(samples: int, rounds: int, count: int) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, count)
        plain = Data(root=root, classes=[str(n) for n in range(CLASSES)], val="none", crop=CROP, scale=SCALE, workers=0)
        sections = {"png": plain}
        for name, compression in (("pack", "none"), ("pack lzf", "lzf")):
            path = root / f"{compression}.h5"
            for _ in Packing(plain, path, compression):  # type: ignore[arg-type]
                pass
            sections[name] = plain.model_copy(update={"pack": path})
        for kind, labeled in (("labeled", True), ("unlabeled", False)):
            random.seed(0)
            ways: dict[str, Callable[[int], object]] = {
                "common": lambda number, labeled=labeled: common(  # type: ignore[misc]
                    str(root / f"images/{number % count}.png"),
                    str(root / f"masks/{number % count}.png") if labeled else None,
                )
            }
            ways |= {name: farcluss_way(data, labeled) for name, data in sections.items()}
            ways |= {} if labeled else {"views": views_way()}
            table[kind] = {name: round(median(t), 2) for name, t in time_ways(ways, samples, rounds).items()}
        table["bytes"] = {"png": sum(path.stat().st_size for path in root.rglob("*.png"))}
        table["bytes"] |= {
            name: (root / f"{c}.h5").stat().st_size for name, c in (("pack", "none"), ("pack lzf", "lzf"))
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=30, help="per round, a multiple of 5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(arguments.samples, arguments.rounds, arguments.images)
    print(f"{'ms per sample':14}" + "".join(f"{name:>12}" for name in WAYS))
    for kind in ("labeled", "unlabeled"):
        row = table[kind]
        print(f"{kind:14}" + "".join(f"{row[name]:12.1f}" for name in WAYS))
        if "views" in row:
            print(f"{'  views':14}{'':12}" + f"{row['views']:12.1f}" * 3 + "  on the device, here the CPU")
        print(f"{'  times faster':14}" + "".join(f"{row['common'] / row[name]:12.1f}" for name in WAYS))
    figures = {
        "size": SIZE,
        "crop": CROP,
        "scale": SCALE,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "images": arguments.images,
        "milliseconds": {kind: table[kind] for kind in ("labeled", "unlabeled")},
        "bytes": table["bytes"],
    }
    record("loader", figures)


if __name__ == "__main__":
    main()
