"""Steps of a stage with statistics whose batches are whole, in several parts, or on several processes."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from farcluss.stages.base import PixelWeight, PseudoLabels
from farcluss.tensors.distributed import all_sum

WAYS = ("whole", "parts", "processes")
COUNT = 4
"""Of parts, and of processes."""
Step = Callable[[PixelWeight, list, Callable[[Tensor], Tensor]], Tensor]
"""From a stage, a process's parts of a batch, and what adds up statistics of processes, to rows for each image."""


def chunks(batch: PseudoLabels | tuple[Tensor, ...], count: int) -> list:
    """A batch in several runs of its images."""
    if isinstance(batch, PseudoLabels):
        return [batch.map(lambda tensor, i=i: tensor.chunk(count)[i]) for i in range(count)]
    return list(zip(*(tensor.chunk(count) for tensor in batch), strict=True))


def take(step: Step, stage: PixelWeight, batches: list, way: str, folder: Path) -> list[Tensor]:
    """What each of some steps makes of its whole batch; the stage's state is then that after the last one."""
    if way != "processes":
        count = 1 if way == "whole" else COUNT
        return [step(stage, chunks(batch, count), lambda summed: summed) for batch in batches]
    torch.multiprocessing.start_processes(_take_as, (step, stage, batches, folder), COUNT, start_method="fork")
    rows, states = zip(*(torch.load(folder / f"{rank}.pt") for rank in range(COUNT)), strict=True)
    for state in states:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    stage.load_state_dict(states[0])
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def _take_as(rank: int, step: Step, stage: PixelWeight, batches: list, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=COUNT)
    rows = [step(stage, [chunks(batch, COUNT)[rank]], all_sum) for batch in batches]
    torch.save((rows, stage.state_dict()), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
