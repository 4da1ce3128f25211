"""Time and memory of the stages and losses of a step, without networks, against crop, classes, K and ranks.

python benchmarks/growth.py
python benchmarks/growth.py --small             # smaller crops, fewer rounds

In place of networks stands one that gives the same logits and embeddings (of a sixteenth of the pixels) for any image.
A step is all that the learner does with them for 2 labeled and 2 unlabeled images: `teach` is what the teacher's logits
go through, `learn` the losses and their gradients, with OHEM and the contrast. Time is that of the process, on one
thread, the median of the rounds; `softmax` is that of the three softmaxes that a step cannot do without, and `beyond`
what the step takes besides. Top-K and entropy read every class as well, so it is not constant in C, but grows slower.
Memory is what exists at most above logits, embeddings and images, in bytes per pixel: of two images in `teach`, where
the teacher's probabilities are `4 C` of it, and of four in `learn`, where the gradient is. The contrast has its peak
before there is a gradient, so with few classes `learn` shows that. The exponent is the slope of time over pixels in
logarithms: 1 is linear.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from farcluss.data.base import IGNORE
from farcluss.learning.batches import Batch, Totals, Views
from farcluss.learning.contracts import Stages
from farcluss.learning.learner import Learner
from farcluss.networks.base import Prediction
from farcluss.networks.normalize import Normalize
from farcluss.recipes.training import Loss
from farcluss.stages.augment import Identity
from farcluss.stages.contrast import Prototype
from farcluss.stages.mix import NoMix
from farcluss.stages.perturb import NoPerturb
from farcluss.stages.pseudo_label import Fuzzy
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import EntropyWeight
from farcluss.tensors.distributed import sum_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import memory
from recording import record, small_or_whole

IMAGES, DIM = 2, 128
CLASSES, KEPT, CROP = 19, 3, 257  # where something else varies


class Given(nn.Module):
    """Stands for a network."""

    def __init__(self, images: int, classes: int, crop: int) -> None:
        super().__init__()
        small = -(-crop // 4)
        self.logits = nn.Parameter(3 * torch.randn(images, classes, crop, crop))
        self.embeddings = nn.Parameter(torch.randn(images, DIM, small, small))

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(self.logits, self.embeddings)


class Step:
    """A learner with given predictions, and a batch for it."""

    def __init__(self, crop: int, classes: int, kept: int) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = Given(2 * IMAGES, classes, crop), Given(IMAGES, classes, crop)
        stages = Stages(
            Identity(),
            NoMix(),
            NoPerturb(),
            Fuzzy(top_k=kept),
            EntropyWeight(),
            MedianFrequency(max_weight=10.0, normalize="mean"),
            Prototype(dim=DIM, confidence=0.5),
        )
        loss = Loss(supervised="ohem", ohem_min_kept=crop * crop // (8 * IMAGES))
        self.learner = Learner(self.student, self.teacher, stages, Normalize([0.5], [0.5]), loss, classes)
        images = torch.rand(IMAGES, 1, crop, crop)
        masks = torch.randint(0, classes, (IMAGES, crop, crop), dtype=torch.uint8)
        self.batch = Batch(images, masks.masked_fill_(images[:, 0] < 0.1, IGNORE), images, images[:, 0] > 0.1)

    def pseudo_label(self) -> tuple[Views, Totals]:
        views, statistics = self.learner.pseudo_label(self.batch)
        assert views is not None
        return views, self.learner.totals(sum_table(statistics), views)

    def learn(self, views: Views, totals: Totals) -> tuple[Tensor, ...]:
        losses = self.learner.losses(self.batch, views, totals, ramp=1.0)
        return torch.autograd.grad(losses["total"], list(self.student.parameters()))

    def softmaxes(self) -> None:
        with torch.no_grad():
            self.teacher.logits.softmax(1)
            for _ in range(2):
                self.student.logits.softmax(1)


def milliseconds(function: Any, *arguments: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function(*arguments)
    return 1000 * (time.process_time() - start), result


def measure(crop: int, classes: int, kept: int, rounds: int) -> dict[str, float]:
    """Milliseconds, and bytes per pixel."""
    step = Step(crop, classes, kept)
    times: dict[str, list[float]] = {"teach": [], "learn": [], "softmax": []}
    for turn in range(rounds + 1):
        teach, known = milliseconds(step.pseudo_label)
        learn, _ = milliseconds(step.learn, *known)
        softmax, _ = milliseconds(step.softmaxes)
        if turn:  # the first round warms up
            for name, taken in (("teach", teach), ("learn", learn), ("softmax", softmax)):
                times[name].append(taken)
    row: dict[str, float] = {name: round(median(taken), 2) for name, taken in times.items()}
    row["step"] = round(row["teach"] + row["learn"], 2)
    row["beyond"] = round(row["step"] - row["softmax"], 2)
    pixels = IMAGES * crop * crop
    highest, known = memory.peak(step.pseudo_label)
    row["teach bytes"] = round(highest / pixels, 1)
    row["learn bytes"] = round(memory.peak(lambda: step.learn(*known))[0] / (2 * pixels), 1)
    return row | {
        "crop": crop,
        "classes": classes,
        "kept": kept,
        "4 C": 4 * classes,
        "ns per pixel": round(1e6 * row["step"] / pixels, 1),
    }


# --------------------------------------------------------------------------------------------------------------------
# Ranks


def worker(rank: int, world: int, folder: str, rounds: int, crop: int) -> None:
    """A process of a group, with images of its own: the median time of its steps, and what one of them sends."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    sent: Counter[str] = Counter()
    reduce = dist.all_reduce

    def counted(tensor: Tensor, *rest: Any, **options: Any) -> Any:
        sent["calls"] += 1
        sent["bytes"] += tensor.numel() * tensor.element_size()
        return reduce(tensor, *rest, **options)

    dist.all_reduce = counted
    step, times = Step(crop, CLASSES, KEPT), []
    for turn in range(rounds + 1):
        before = dict(sent)
        taken, _ = milliseconds(lambda: step.learn(*step.pseudo_label()))
        times += [taken] if turn else []
    facts = [round(median(times), 2), *(sent[name] - before.get(name, 0) for name in ("calls", "bytes"))]
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, facts)
    if rank == 0:
        torch.save(gathered, f"{folder}/facts")
    dist.destroy_process_group()


def measure_ranks(world: int, rounds: int, crop: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (world, folder, rounds, crop), nprocs=world)
        facts = torch.load(f"{folder}/facts")
    slowest, calls, size = (max(each) for each in zip(*facts, strict=True))
    return {"ranks": world, "step": slowest, "calls": calls, "bytes": size}


# --------------------------------------------------------------------------------------------------------------------


def show(title: str, rows: list[dict[str, float]], columns: list[str]) -> None:
    print(f"\n{title}\n" + "".join(f"{name:>13}" for name in columns))
    for row in rows:
        print("".join(f"{row[name]:>13,}" for name in columns))


def exponent(rows: list[dict[str, float]], name: str) -> float:
    pixels, times = np.log([row["crop"] ** 2 for row in rows]), np.log([row[name] for row in rows])
    return round(float(np.polyfit(pixels, times, 1)[0]), 3)


def main() -> None:
    arguments = small_or_whole(__doc__)
    rounds, crop = arguments.rounds, 129 if arguments.small else CROP
    crops = (65, 129, 257) if arguments.small else (129, 257, 513, 801)
    tables = {
        "crop": [measure(size, CLASSES, KEPT, rounds) for size in crops],
        "classes": [measure(crop, classes, KEPT, rounds) for classes in (2, 6, 19, 50, 150)],
        "kept": [measure(crop, CLASSES, kept, rounds) for kept in (1, 2, 3, 5, 8)],
    }
    figures = ["teach", "learn", "step", "softmax", "beyond", "ns per pixel", "4 C", "teach bytes", "learn bytes"]
    print("Milliseconds of CPU time of a step; bytes per pixel at the peak")
    for name, rows in tables.items():
        show(f"against {name}", rows, [name, *figures])
    exponents = {name: exponent(tables["crop"], name) for name in ("teach", "learn", "step")}
    print("\nexponent in pixels: " + ", ".join(f"{name} {value}" for name, value in exponents.items()))
    ranks = [measure_ranks(world, rounds, crop) for world in (1, 2, 3, 4)]
    show(f"against ranks, each with its own images of {crop}", ranks, ["ranks", "step", "calls", "bytes"])
    settings = {"images": IMAGES, "embeddings": DIM, "rounds": rounds, "crop": crop}
    record("growth", {"settings": settings, "tables": tables, "exponents": exponents, "ranks": ranks})


if __name__ == "__main__":
    main()
