"""Measure how long images take to be scored: by the field's way, and by farcluss; estimate evaluation's share of a run.

python benchmarks/evaluation.py                          # drawn images of CamVid's size
python benchmarks/evaluation.py --root /data/camvid --split test
python benchmarks/evaluation.py --share                  # the share alone, for the Cityscapes recipes

The field's way, written here from its description: a loader with batch 1 whose worker decodes and normalizes; logits
upsampled to the image; `argmax(1).cpu().numpy()`; three calls of `np.histogram` per image for the areas of
intersection, prediction and target. Both ways have as many workers and threads, and the same network with the same
weights, each in the memory format that is its usual one. They take turns in every round; the median round counts.
"""

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from recording import record
from scaling import recipe_facts
from torch import nn
from torch.utils.data import DataLoader

from farcluss import load_recipe
from farcluss.data.base import IGNORE, Dataset, Item, defaults_of
from farcluss.inference.card import card_of
from farcluss.inference.evaluation import evaluate
from farcluss.inference.weights import Model, build_network
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Recipe

COLUMNS = ("wall", "cpu")  # clock; processor time of the main process with all its threads
RECIPE, SIZE, CLASSES = "camvid_1_8", (360, 480), 11
NARROW = {"aspp_channels": 32, "low_level_channels": 16, "head_channels": 32}
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv3_small_050": NARROW,
    "test_resnet": NARROW,
    "mobilenetv3_small_100": {"aspp_channels": 64, "head_channels": 64},
    "resnet18": {},  # the recipe's
}


def write_images(root: Path, count: int) -> None:
    """Blocks of classes with colors and noise, as JPEG and PNG files in CamVid's lists."""
    for split in ("train", "val", "test"):
        lines = []
        for number in range(count if split != "train" else 16):
            rng = np.random.default_rng(number)
            mask = rng.integers(0, CLASSES + 1, (SIZE[0] // 40, SIZE[1] // 40), np.uint8).repeat(40, 0).repeat(40, 1)
            image = rng.integers(0, 256, (CLASSES + 1, 3))[mask] + rng.normal(0, 8, (*SIZE, 3))
            names = f"{split}/{number}.jpg", f"{split}/{number}.png"
            (root / split).mkdir(exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / names[0])
            Image.fromarray(mask).save(root / names[1])
            lines.append(" ".join(names))
        (root / f"{split}.txt").write_text("\n".join(lines))


# --------------------------------------------------------------------------------------------------------------------
# The field's way


class FieldImages:
    """Normalized float images and int64 masks."""

    def __init__(self, items: list[Item], recipe: Recipe) -> None:
        self.files = [(item.image, str(item.mask)) for item in items]
        self.mean, self.std = (
            np.array(part, np.float32) for part in (recipe.data.channel_mean, recipe.data.channel_std)
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_path, mask_path = self.files[index]
        unit = np.asarray(Image.open(image_path).convert("RGB"), np.float32) / 255
        image = torch.from_numpy(np.ascontiguousarray(((unit - self.mean) / self.std).transpose(2, 0, 1)))
        mask = np.array(Image.open(mask_path), np.int64)
        mask[mask == CLASSES] = IGNORE
        return image, torch.from_numpy(mask)


def areas(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pixels per class of intersection, prediction and target."""
    predicted, target = predicted.reshape(-1).copy(), target.reshape(-1)
    predicted[target == IGNORE] = IGNORE
    edges = np.arange(CLASSES + 1)
    parts = (predicted[predicted == target], predicted, target)
    return np.stack([np.histogram(part, edges)[0] for part in parts])


@torch.no_grad()
def field_way(network: nn.Module, images: FieldImages, workers: int) -> float:
    """Mean IoU."""
    loader: DataLoader[Any] = DataLoader(images, batch_size=1, num_workers=workers)  # type: ignore[arg-type]
    total = np.zeros((3, CLASSES), np.int64)
    for image, mask in loader:
        predicted = network(image).logits.argmax(1).cpu().numpy()
        total += areas(predicted, mask.numpy())
    hits, found, true = total
    return float((hits / np.maximum(found + true - hits, 1))[found + true > 0].mean())


# --------------------------------------------------------------------------------------------------------------------
# Measuring


def compare(ways: dict[str, Callable[[], float]], rounds: int, images: int) -> dict[str, Any]:
    """Milliseconds per image of each way, and the mIoU that it finds."""
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    found = {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            found[name] = way()
            if turn:  # the first round warms up
                times[name].append((time.perf_counter() - start, time.process_time() - busy))
    table: dict[str, Any] = {}
    for name, rows in times.items():
        figures = [round(1000 * median(column) / images, 2) for column in zip(*rows, strict=True)]
        table[name] = dict(zip(COLUMNS, figures, strict=True)) | {"miou": round(100 * found[name], 3)}
    return table


def ways_of(
    encoder: str, recipe: Recipe, dataset: Dataset, items: list[Item], workers: int
) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    options = {**recipe.network.options, "encoder": encoder, **NETWORKS[encoder]}
    ours = build_network(recipe.network.name, options, 3, CLASSES, 0, False).eval()
    plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    card = card_of(recipe, defaults_of(dataset), dataset.classes, dataset.palette, 0, SIZE)
    images = FieldImages(items, recipe)
    return {
        "field": lambda: field_way(plain, images, workers),
        "farcluss": lambda: evaluate(Model(ours, card), dataset, items, workers=workers).miou,
    }


def measure(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = load_recipe(RECIPE, [], [f"data.root={json.dumps(str(root))}"])
    dataset = build_dataset(recipe.data)
    items = dataset.items(arguments.split)[: arguments.images]
    table = {}
    print(f"{'ms per image':24}" + "".join(f"{name + ': field, farcluss, ratio':>38}" for name in COLUMNS) + "   mIoU")
    for encoder in arguments.networks:
        row = compare(ways_of(encoder, recipe, dataset, items, arguments.workers), arguments.rounds, len(items))
        field, ours = row["field"], row["farcluss"]
        cells = (f"{field[key]:18.1f}{ours[key]:10.1f}{field[key] / ours[key]:10.2f}" for key in COLUMNS)
        print(f"{encoder:24}{''.join(cells)}   {field['miou']} {ours['miou']}", flush=True)
        table[encoder] = row
    return {"images": len(items), "milliseconds": table}


# --------------------------------------------------------------------------------------------------------------------
# The share of a run

TRAINING, VALIDATION, WINDOWS, NETWORKS_SCORED = 2975, 500, 8, 2  # Cityscapes; windows of an image at stride 2/3
FORWARDS = 7  # of a labeled and unlabeled pair, see scaling.py
HALF = 2.0  # times as long as in training does a forward take, where float32 scores and bf16 trains; an upper bound
RATE_CROP, RATE_ROUNDS = 161, 5


def measured_rate() -> float:
    """Seconds of a forward of scoring, over a seventh of what a pair of images takes in training; on this machine."""
    recipe = load_recipe("cityscapes_r50_1_16", [], ["data.root=/"])
    torch.manual_seed(0)
    network = build_network(recipe.network.name, {**recipe.network.options, "encoder": "resnet50s"}, 3, 19, 0, False)
    images = torch.randn(2, 3, RATE_CROP, RATE_CROP)
    ratios = []
    for turn in range(RATE_ROUNDS + 1):
        start = time.perf_counter()
        with torch.no_grad():
            network.eval()(images)
        scored = (time.perf_counter() - start) / 2
        network.train()
        start = time.perf_counter()
        with torch.no_grad():
            network(images)
        network(images).logits.square().mean().backward()
        trained = (time.perf_counter() - start) / (1 + 3) / 2  # teacher; student forward and, twice as long, backward
        if turn:
            ratios.append(scored / trained)
    return median(ratios)


def share(name: str, rates: dict[str, float]) -> dict[str, Any]:
    """Evaluation's share of the time of a Cityscapes recipe, by operations of the network and rates of doing them."""
    facts, recipe = recipe_facts(name)
    labeled = TRAINING // int(name.rpartition("_")[2])
    steps = -(-(TRAINING - labeled) // recipe.train.batch) * int(recipe.train.epochs or 0)
    evaluations = -(-steps // recipe.eval.every)  # the last step is always scored
    scored = VALIDATION * WINDOWS * NETWORKS_SCORED * facts["operations"]
    step = FORWARDS * recipe.train.batch * facts["operations"]
    parts = {kind: evaluations * scored * rate / (steps * step) for kind, rate in rates.items()}
    return {
        "steps": steps, "every": recipe.eval.every, "evaluations": evaluations, "operations": facts["operations"],
        "steps_each": {kind: round(scored * rate / step) for kind, rate in rates.items()},
        "share": {kind: round(part / (1 + part), 4) for kind, part in parts.items()},
    }  # fmt: skip


def shares() -> dict[str, Any]:
    rates = {"equal": 1.0, "measured": round(measured_rate(), 3), "half": HALF}
    print(f"\nA forward takes as long as one of training (equal), {rates['measured']} times (measured), {HALF} (half).")
    print(f"{'recipe':22}{'steps':>8}{'every':>8}{'times':>7}" + "".join(f"{kind:>20}" for kind in rates))
    table: dict[str, Any] = {"rates": rates}
    for name in (f"cityscapes_{backbone}_1_{part}" for backbone in ("r50", "r101") for part in (16, 8, 4, 2)):
        row = table[name] = share(name, rates)
        cells = (f"{row['steps_each'][kind]:8} st. {100 * row['share'][kind]:5.2f} %" for kind in rates)
        print(f"{name:22}{row['steps']:8,}{row['every']:8,}{row['evaluations']:7}" + "".join(cells))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of CamVid with val.txt and test.txt; default: drawn images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=101, help="at most")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--share", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if arguments.share:
        shares()
        return
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.root is None:
            write_images(Path(folder), arguments.images)
        figures = measure(arguments.root or Path(folder), arguments)
    facts = {
        "data": "drawn" if arguments.root is None else "camvid",
        "size": SIZE,
        "split": arguments.split,
        "rounds": arguments.rounds,
        "workers": arguments.workers,
        "threads": arguments.threads,
        **figures,
        "share": shares(),
    }
    record("evaluation", facts)


if __name__ == "__main__":
    main()
