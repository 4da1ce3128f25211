"""One optimizer step, which does not depend on the number of processes or micro-batches."""

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from farcluss.data.loader import HostBatch
from farcluss.inference.weights import to_unit
from farcluss.learning.averaging import ema_decay, ema_update
from farcluss.learning.batches import Batch, Totals, Views, WholeBatch, split
from farcluss.learning.learner import ADAPTIVE
from farcluss.networks.base import batch_norms
from farcluss.tensors.distributed import all_sum, sum_table
from farcluss.tensors.draws import addressed
from farcluss.tensors.timing import span
from farcluss.training.optimization import lr_factor, ramp_factor, set_learning_rate
from farcluss.training.state import Run
from farcluss.training.watch import LOSSES

MicroBatches = list[tuple[Batch, Views | None]]


class Step(NamedTuple):
    """The results of a step, on the device.

    Attributes:
        losses: this process's shares of the losses, by name.
        statistics: statistics of the whole batch, see `Learner.pseudo_label`.
        flags: see `farcluss.training.watch.Watch.push`.
    """

    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]
    flags: Tensor


def to_device(host: HostBatch, device: torch.device, semi: bool, logging: bool) -> Batch:
    """A batch on the device, 8-bit images in [0, 1]. Masks of unlabeled images are included only for diagnostics."""
    images, masks, valid = (tensor.to(device, non_blocking=True) for tensor in (host.images, host.masks, host.valid))
    images = to_unit(images)
    n = host.labeled
    if not semi:
        return Batch(images[:n], masks[:n])
    return Batch(images[:n], masks[:n], images[n:], valid[n:], masks[n:] if logging else None)


def one_step(run: Run, host: HostBatch, semi: bool, logging: bool) -> Step:
    """One optimizer step: pseudo-labels, global sums, then losses and gradients of one or more micro-batches.

    If a loss or the gradient is not finite, weights, optimizer, teacher and buffers stay unchanged.
    """
    accelerator, learner, train = run.accelerator, run.learner, run.recipe.train
    set_learning_rate(run.optimizer, lr_factor(run.step, run.steps, train))
    with span("copy"):
        batch = to_device(host, accelerator.device, semi, logging)
    before = [buffer.clone() for buffer in run.rollback]
    set_progress(run)
    for norm in batch_norms(run.networks["student"]) if train.freeze_norms else ():
        norm.eval()  # in each step, as an evaluation sets the whole network to training behind it
    with _seeded(run, 0):
        views, statistics = learner.pseudo_label(batch, train.accumulate)
    statistics = sum_table(statistics)
    totals = learner.totals(statistics, views)
    losses = forward_backward(run, split(batch, views, train.accumulate, train.split_backward), totals)
    learner.absorb_labeled(losses)
    with span("optimizer"):
        nonfinite, flags = check_finite(run, losses)
        if not accelerator.scaler:  # which sets flags of its own
            run.optimizer.optimizer.found_inf = nonfinite.float()
        run.optimizer.step()
        run.optimizer.zero_grad()
    average_buffers(run)
    for buffer, old in zip(run.rollback, before, strict=True):
        torch.where(nonfinite, old, buffer, out=buffer)
    with span("ema"):
        rate = 1 - ema_decay(run.step, train.ema, train.ema_ramp)
        ema_update(learner.teacher, run.networks["student"], torch.where(nonfinite, 0.0, rate))
    return Step(losses, statistics, flags)


def forward_backward(run: Run, micro_batches: MicroBatches, totals: Totals) -> dict[str, Tensor]:
    """Forward and backward of all micro-batches. Returns the sums of their losses."""
    accelerator, learner, ramp = run.accelerator, run.learner, ramp_factor(run.step, run.recipe.loss)
    wholes = first_pass(run, micro_batches, totals)
    summed: dict[str, Tensor] = {}
    for number, (micro_batch, whole) in enumerate(zip(micro_batches, wholes, strict=True)):
        last = number + 1 == len(micro_batches)
        with contextlib.nullcontext() if last else accelerator.no_sync(learner.student):
            with _seeded(run, number + 1):
                losses = learner.losses(*micro_batch, totals, ramp, whole)
            # DDP averages gradients over processes, but the shares of a loss add up: hence the factor.
            with span("backward"):
                accelerator.backward(losses["total"] * accelerator.num_processes)
        summed |= {name: summed.get(name, 0) + value.detach() for name, value in losses.items()}
    return summed


def set_progress(run: Run) -> None:
    """Tell the stages which share of the training is done."""
    for kind in ADAPTIVE:
        getattr(run.parts.stages, kind).progress.fill_(run.step / run.steps)


def first_pass(run: Run, micro_batches: MicroBatches, totals: Totals) -> list[WholeBatch] | list[None]:
    """An extra forward of all micro-batches without gradient, if a loss spans them; buffers stay unchanged."""
    learner, several = run.learner, run.recipe.train.accumulate > 1
    ohem = run.recipe.loss.supervised == "ohem" and several
    contrast = run.parts.dim > 0 and micro_batches[0][1] is not None
    spans = several or (len(micro_batches) > 1 and run.parts.stages.contrast.include_labeled)
    if not (ohem or (contrast and spans)):
        return [None] * len(micro_batches)
    before = [buffer.clone() for buffer in run.buffers]
    passes = []
    for number, micro_batch in enumerate(micro_batches):
        with _seeded(run, number + 1), span("first_pass"):
            passes.append(learner.first_pass(*micro_batch, totals))
    for buffer, old in zip(run.buffers, before, strict=True):
        buffer.copy_(old)
    with _seeded(run, len(micro_batches) + 1), span("first_pass"):
        return learner.whole_batch(passes)


def _seeded(run: Run, part: int) -> Any:
    """Seed the random draws of a part of this step, such as dropout, alike in both forwards of a micro-batch."""
    accelerator = run.accelerator
    return addressed(run.recipe.train.seed, run.step, accelerator.process_index, accelerator.num_processes, part)


def check_finite(run: Run, losses: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Check losses and gradients of all processes, without a host sync; also unscales and clips the gradients.

    Returns:
        Bool scalar, whether any is not finite, and flags, see `farcluss.training.watch.Watch.push`.
    """
    train, device = run.recipe.train, run.accelerator.device
    finite = torch.zeros((), dtype=torch.bool, device=device)
    local = torch.stack([~torch.isfinite(losses[name]) if name in losses else finite for name in LOSSES]).float()
    summed = all_sum(torch.cat([local, run.interruption.flags(device)]))
    everywhere, signals = summed[: len(local)], summed[len(local) :]
    parameters = [p for p in run.learner.student.parameters() if p.grad is not None]
    # A loss can be non-finite while the gradient is finite; make the gradient show it, too.
    parameters[0].grad.add_(torch.where(everywhere.any(), torch.nan, 0.0))
    if train.clip:
        norm = run.accelerator.clip_grad_norm_(parameters, train.clip)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    nonfinite = ~torch.isfinite(norm)
    gradient = (nonfinite & ~everywhere.any()).float().view(1)
    return nonfinite, torch.cat([everywhere, gradient, local, gradient, signals])


def average_buffers(run: Run) -> None:
    """Average float buffers (batch-norm statistics) over processes; on CUDA SyncBatchNorm keeps them equal already."""
    world = run.accelerator.num_processes
    if world == 1 or run.accelerator.device.type == "cuda":
        return
    for buffer in run.buffers:
        if buffer.is_floating_point():
            buffer.copy_(all_sum(buffer.double()) / world)
