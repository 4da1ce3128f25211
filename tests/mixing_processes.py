"""What one process of a group does in the tests of mixing; importable by the processes that it starts."""

from pathlib import Path

import positions
import torch
import torch.distributed as dist

from farcluss.stages.base import Mix, View
from farcluss.stages.mix import ClassMix, CutMix
from farcluss.stages.mixing import partners
from farcluss.tensors.draws import addressed

BATCH, SIZE = 8, (4, 5)
RULES = ("previous", "reverse", "random")
STEPS = 10  # enough for every shift by a part of a process's rows, by all of them, and by more
STAGES: dict[str, Mix] = {
    "cutmix": CutMix(p=0.7, partner="random", boxes=2),
    "beta": CutMix(law="beta", partner="reverse"),
    "classmix": ClassMix(p=0.7),
}


def mixed(rank: int, world: int) -> dict[str, list[torch.Tensor]]:
    """The rows of one of `world` processes that share a batch: its partners by rule, its mixed views by stage."""
    count = BATCH // world
    mine = slice(rank * count, (rank + 1) * count)
    labels = positions.labels(BATCH, SIZE).map(lambda tensor: tensor[mine])
    view = View(positions.images(BATCH, SIZE)[mine], labels)
    scene = positions.scene(*view)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*RULES, *STAGES)}
    for step in range(STEPS):
        with addressed(seed=1, step=step, rank=rank, world=world):
            for rule in RULES:
                found[rule].append(partners(rule, count)(torch.arange(BATCH)[mine]))
            for name, stage in STAGES.items():
                images, moved = stage(view, scene)
                found[name].append(torch.cat([images[:, 0], moved.confidence, moved.classes[:, 0], moved.valid], 1))
    return found


def mix_as(rank: int, worlds: tuple[int, ...], folder: Path) -> None:
    """Mix as `rank` of each number of processes that has one, and write the rows to `folder`."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=max(worlds))
    for world in worlds:
        if rank < world:
            torch.save(mixed(rank, world), folder / f"{rank}-of-{world}.pt")
    dist.barrier()
    dist.destroy_process_group()
