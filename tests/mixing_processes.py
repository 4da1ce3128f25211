"""What one process of a group does in the tests of mixing; importable by the processes that it starts."""

from pathlib import Path

import oracles
import positions
import torch
import torch.distributed as dist

from farcluss.stages.base import Augment, Mix, Perturb, View
from farcluss.stages.mix import AdaptiveCutMix, ClassMix, CutMix
from farcluss.stages.mixing import partners
from farcluss.stages.operations import ByAgreement, RandomOperations
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
LEARNED: dict[str, Augment | Mix] = {
    "random-operations": RandomOperations(),
    "by-agreement": ByAgreement(threshold=0.6),
    "adaptive-cutmix": AdaptiveCutMix(),
}
"""They change images by what is known of them."""
CHANNELS = (3, 5)
WORLD = 4
"""The largest number of processes, over which stages take sums; smaller groups are parts of it here."""
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
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*RULES, *STAGES, *PERTURBED, *LEARNED)}
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
            for name, learned in LEARNED.items() if world in (1, WORLD) else ():
                found[name].append(changed(learned, mine))
    return found


def changed(stage: Augment | Mix, mine: slice) -> torch.Tensor:
    """Some images of a batch, as a stage changes them, with their shares; of some the networks are sure."""
    generator = torch.Generator().manual_seed(0)
    images, student, teacher = (torch.rand(BATCH, 3, 8, 9, generator=generator) for _ in range(3))
    sure = torch.linspace(1, 20, BATCH).view(-1, 1, 1, 1)
    one, other = (oracles.labels_of((sure * each).softmax(1), 3) for each in (student, teacher))
    one, other = (labels.map(lambda tensor: tensor[mine]) for labels in (one, other))
    scene = positions.scene(images[mine], other)._replace(student=one)
    views = (stage(scene.weak, scene),) if isinstance(stage, Mix) else stage.strong(scene)
    shares = [view.share.unsqueeze(1) for view in views if view.share is not None]
    return torch.cat([*(view.images.flatten(1) for view in views), *shares], 1)


def mix_as(rank: int, worlds: tuple[int, ...], folder: Path) -> None:
    """Mix as `rank` of each number of processes that has one, and write the rows to `folder`."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=max(worlds))
    for world in worlds:
        if rank < world:
            torch.save(mixed(rank, world), folder / f"{rank}-of-{world}.pt")
    dist.barrier()
    dist.destroy_process_group()
