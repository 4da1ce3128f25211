"""The loop: steps a learner through Accelerate, logs, evaluates, checkpoints, resumes.

Accelerate wraps the student and moves tensors; it does not touch the loader, the learning rate or the teacher, which
are functions of the step.
"""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from torch import Tensor, nn

from farcluss.build import Parts, build_parts
from farcluss.data.loader import LABELED, UNLABELED, HostBatch, PairedCrops, micro_batches, step_addresses
from farcluss.display import Display
from farcluss.distributed import sum_tables
from farcluss.errors import PluginError, RunError
from farcluss.learner import Batch, Learner, ema_decay, ema_update
from farcluss.milestones import log_step, restore, save_checkpoint, save_picture, score
from farcluss.optimization import build_optimizer, learning_rate, set_learning_rate
from farcluss.recipe import Recipe
from farcluss.runs import RunFolder, read_checkpoint
from farcluss.state import Run
from farcluss.weights import to_unit

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def train(
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a recipe and return the run directory.

    Args:
        recipe: see `farcluss.load_recipe`.
        output: run directory; default `runs/NAME`.
        resume: a checkpoint, or `"newest"` for the run's own newest one.
        overwrite: replace a run that is there already.

    Raises:
        FarclussError: anything a user can mend.
    """
    folder = RunFolder(Path(output) if output else Path("runs") / recipe.name)
    accelerator = make_accelerator(recipe, folder.path)
    main = accelerator.is_main_process
    checkpoint = None
    if resume is not None:
        checkpoint = read_checkpoint(folder.newest_checkpoint() if resume == "newest" else resume)
    parts = build_parts(recipe)
    if checkpoint is None:
        folder.refuse_existing(overwrite)
    run = prepare(recipe, parts, accelerator, folder)
    if checkpoint is not None:
        restore(run, checkpoint)
    accelerator.wait_for_everyone()  # all have looked for an existing run before one of them makes a new one
    if main:
        folder.create(recipe, fresh=checkpoint is None)
        folder.forget_after(run.step)
        folder.describe(str(accelerator.device), accelerator.num_processes, parts.splits)
    if recipe.train.trackers:
        accelerator.init_trackers(recipe.name)
    with Display(folder, run.step, run.steps, main) as display:
        _announce(run, display)
        run_steps(run, display)
    if recipe.train.trackers:
        accelerator.end_training()
    return folder.path


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """The Accelerator of a recipe.

    Raises:
        RunError: FSDP or DeepSpeed is configured, or the batch cannot be split.
        PluginError: a tracker is not installed.
    """
    for tracker in recipe.train.trackers:
        if find_spec(tracker) is None:
            raise PluginError(
                f"train.trackers names {tracker}, which is not installed: pip install 'farcluss[{tracker}]'"
            )
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(folder),
        # Micro-batches are this loop's own: whatever the environment says, Accelerate must not divide by their number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.distributed_type not in SUPPORTED:
        raise RunError(
            f"farcluss trains with plain data parallelism, not {accelerator.distributed_type.value}: the teacher would "
            "have to be sharded with the student.\nChoose multi-GPU or no distribution in `accelerate config`."
        )
    pieces = accelerator.num_processes * recipe.train.accumulate
    if recipe.train.batch % pieces:
        raise RunError(
            f"train.batch = {recipe.train.batch} cannot be split over {accelerator.num_processes} processes and "
            f"{recipe.train.accumulate} micro-batches.\nUse a multiple of {pieces}."
        )
    return accelerator


def prepare(recipe: Recipe, parts: Parts, accelerator: Accelerator, folder: RunFolder) -> Run:
    """Build networks, optimizer and learner on the device."""
    torch.manual_seed(recipe.train.seed)
    student, teacher = parts.build_networks()
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    optimizer = build_optimizer(student, recipe.train)
    wrapped, prepared = accelerator.prepare(student, optimizer)
    # The step enters autocast itself; without this a network is also scored in half precision, unlike by `eval`.
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    for module in (teacher, parts.normalize, *parts.stages.modules().values()):
        module.to(accelerator.device)
    learner = Learner(wrapped, teacher, parts.stages, parts.normalize, recipe.loss, len(parts.dataset.classes))
    steps = recipe.train.steps or recipe.train.epochs * parts.steps_per_epoch()  # type: ignore[operator]
    return Run(recipe, parts, accelerator, learner, prepared, folder, steps)


def _announce(run: Run, display: Display) -> None:
    splits, network = run.parts.splits, run.networks["student"]
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    names = ", ".join(f"{name} {len(getattr(splits, name))} ({splits.names[name]})" for name in splits.names)
    display.say(f"{run.recipe.name}: {names}; {len(run.parts.dataset.classes)} classes")
    display.say(
        f"{run.recipe.network.name} {millions:.3f} M parameters on {run.accelerator.device} x "
        f"{run.accelerator.num_processes}, {run.steps} steps, run directory {run.folder.path}"
    )
    if report := getattr(network, "pretrained_report", ""):
        display.say(report)
    if run.step:
        display.say(f"resumed at step {run.step}")


def run_steps(run: Run, display: Display) -> None:
    """Train to the last step: log, score, draw and save where it is due."""
    train = run.recipe.train
    batches = load_batches(run)
    while run.step < run.steps:
        logging = (run.step + 1) % train.log_every == 0 or run.step + 1 == run.steps
        semi = run.recipe.semi_supervised and run.step >= run.recipe.loss.warmup_steps
        hosts = list(islice(batches, train.accumulate))
        losses, statistics = one_step(run, hosts, semi, logging)
        run.step += 1
        run.images += run.accelerator.num_processes * sum(len(host.images) for host in hosts)
        if logging:
            log_step(run, display, losses, statistics)
        last = run.step == run.steps
        if last or run.step % run.recipe.eval.every == 0:
            score(run, display)
            if semi and run.accelerator.is_main_process:
                save_picture(run, to_device(hosts[0], run.accelerator.device, semi=True, logging=True))
        if last or run.step % train.checkpoint_every == 0:
            save_checkpoint(run)


def load_batches(run: Run) -> Iterator[HostBatch]:
    """The micro-batches of this process from the run's step on; unlabeled images only from the step that needs them."""
    recipe, parts, accelerator = run.recipe, run.parts, run.accelerator
    crops = PairedCrops(
        parts.dataset,
        (parts.splits.labeled, parts.splits.unlabeled),
        recipe.data,
        parts.crop,
        recipe.train.batch,
        recipe.train.seed,
        truth_every=(recipe.train.log_every, recipe.eval.every, run.steps),
    )
    world, pieces, batch = accelerator.num_processes, recipe.train.accumulate, recipe.train.batch
    turn = min(max(recipe.loss.warmup_steps, run.step), run.steps) if recipe.semi_supervised else run.steps

    def addresses() -> Iterator[Any]:
        rank = accelerator.process_index
        yield from step_addresses(run.step, turn, batch, (LABELED,), rank, world, pieces)
        yield from step_addresses(turn, run.steps, batch, (LABELED, UNLABELED), rank, world, pieces)

    return micro_batches(crops, addresses(), recipe.data.workers, accelerator.device.type == "cuda")


def to_device(host: HostBatch, device: torch.device, semi: bool, logging: bool) -> Batch:
    """A micro-batch on the device, in [0, 1]. The unlabeled images' own masks come along for diagnostics alone."""
    images, masks, valid = (tensor.to(device, non_blocking=True) for tensor in (host.images, host.masks, host.valid))
    images = to_unit(images)
    n = host.labeled
    if not semi:
        return Batch(images[:n], masks[:n])
    return Batch(images[:n], masks[:n], images[n:], valid[n:], masks[n:] if logging else None)


def one_step(
    run: Run, hosts: list[HostBatch], semi: bool, logging: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One optimizer step over all micro-batches: teach all, sum what is global, then learn from each."""
    accelerator, learner, train, loss = run.accelerator, run.learner, run.recipe.train, run.recipe.loss
    set_learning_rate(run.optimizer, learning_rate(run.step, run.steps, train))
    batches = [to_device(host, accelerator.device, semi, logging) for host in hosts]
    taught = []
    for micro, batch in enumerate(batches):
        seed_draws(train.seed, run.step, accelerator.process_index * train.accumulate + micro)
        with accelerator.autocast():
            taught.append(learner.teach(batch))
    statistics = sum_tables([table for _, table in taught])
    totals = learner.totals(statistics, len(batches))
    ramp = min(1.0, (run.step + 1 - loss.warmup_steps) / loss.ramp_steps) if loss.ramp_steps else 1.0
    summed: dict[str, Tensor] = {}
    for micro, (batch, (lesson, _)) in enumerate(zip(batches, taught, strict=True)):
        last = micro + 1 == len(batches)
        with contextlib.nullcontext() if last else accelerator.no_sync(learner.student):
            with accelerator.autocast():
                losses = learner.losses(batch, lesson, totals, ramp)
            # DDP averages gradients over processes, while the shares of a loss add up: hence the factor.
            accelerator.backward(losses["total"] * accelerator.num_processes)
        summed = {name: summed.get(name, 0) + value.detach() for name, value in losses.items()}
    if train.clip:
        accelerator.clip_grad_norm_(learner.student.parameters(), train.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    average_buffers(run)
    if not accelerator.optimizer_step_was_skipped:  # as fp16 does when its scale was too large
        ema_update(learner.teacher, run.networks["student"], ema_decay(run.step, train.ema))
    return summed, statistics


def seed_draws(seed: int, step: int, place: int) -> None:
    """Make every random draw on the device a function of (seed, step, place in the batch)."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + place)


def average_buffers(run: Run) -> None:
    """Give all processes the same float buffers (batch-norm statistics); on CUDA SyncBatchNorm has done so already."""
    world = run.accelerator.num_processes
    if world == 1 or run.accelerator.device.type == "cuda":
        return
    buffers = [buffer for buffer in run.networks["student"].buffers() if buffer.is_floating_point()]
    means = sum_tables([{str(place): buffer / world for place, buffer in enumerate(buffers)}]) if buffers else {}
    for buffer, mean in zip(buffers, means.values(), strict=True):
        buffer.copy_(mean)
