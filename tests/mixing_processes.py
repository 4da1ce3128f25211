"""What one process of a group does in the tests of mixing; importable by the processes that it starts."""

from pathlib import Path

import positions
import torch
import torch.distributed as dist

from farcluss.stages.base import Mix, Perturb, View
from farcluss.stages.mix import ClassMix, CutMix
from farcluss.stages.mixing import partners
from farcluss.stages.perturb import ComplementaryDropout, FeatureDropout
from farcluss.tensors.draws import addressed

BATCH, SIZE = 8, (4, 5)
RULES = ("previous", "reverse", "random")
STEPS = 10  # enough for every shift by a part of a process's rows, by all of them, and by more
STAGES: dict[str, Mix] = {
    "cutmix": CutMix(p=0.7, partner="random", boxes=2),
    "beta": CutMix(law="beta", partner="reverse"),
    "classmix": ClassMix(p=0.7),
}
CHANNELS = (3, 5)
PERTURBED: dict[str, Perturb] = {
    "feature-dropout": FeatureDropout(p=0.3),
    "complementary-dropout": ComplementaryDropout(),
}


def mixed(rank: int, world: int) -> dict[str, list[torch.Tensor]]:
    """The rows of one of `world` processes that share a batch: its partners by rule, what its stages
    mix and draw."""
    count = BATCH // world
    mine = slice(rank * count, (rank + 1) * count)
    labels = positions.labels(BATCH, SIZE).map(lambda tensor: tensor[mine])
    view = View(positions.images(BATCH, SIZE)[mine], labels)
    scene = positions.scene(view.images, view.labels)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*RULES, *STAGES, *PERTURBED)}
    for step in range(STEPS):
        with addressed(seed=1, step=step, rank=rank, world=world):
            for rule in RULES:
                found[rule].append(partners(rule, count)(torch.arange(BATCH)[mine]))
            for name, stage in STAGES.items():
                moved = stage(view, scene)
                fields = moved.labels.confidence, moved.labels.classes[:, 0], moved.labels.valid
                found[name].append(torch.cat([moved.images[:, 0], *fields], 1))
            for name, perturb in PERTURBED.items():
                views = perturb.draw((view, view), scene, CHANNELS)
                found[name].append(torch.cat([each.drawn for each in views if each.drawn is not None], 1))
    return found


def mix_as(rank: int, worlds: tuple[int, ...], folder: Path) -> None:
    """Mix as `rank` of each number of processes that has one, and write the rows to `folder`."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=max(worlds))
    for world in worlds:
        if rank < world:
            torch.save(mixed(rank, world), folder / f"{rank}-of-{world}.pt")
    dist.barrier()
    dist.destroy_process_group()
