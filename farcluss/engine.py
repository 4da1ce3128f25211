"""The loop: steps a learner through Accelerate, logs, evaluates, checkpoints, resumes.

Accelerate wraps the student and moves tensors; it does not touch the loader, the learning rate or the teacher, which
are functions of the step.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from torch import Tensor, nn

from farcluss.build import Parts, build_parts
from farcluss.data.base import Item
from farcluss.data.loader import LABELED, UNLABELED, HostBatch, PairedCrops, micro_batches, step_addresses
from farcluss.display import Display
from farcluss.distributed import all_sum, sum_tables
from farcluss.errors import RunError
from farcluss.evaluation import Scores, evaluate
from farcluss.learner import Batch, Learner, ema_decay, ema_update
from farcluss.optimization import build_optimizer, learning_rate, set_learning_rate
from farcluss.panels import draw_panel, save_panel
from farcluss.recipe import Recipe
from farcluss.runs import RunFolder, read_checkpoint
from farcluss.weights import Model, save_weights, to_unit

PICTURES = 4
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


@dataclass
class Run:
    """Everything a step needs."""

    recipe: Recipe
    parts: Parts
    accelerator: Accelerator
    learner: Learner
    optimizer: Any
    folder: RunFolder
    steps: int
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    """Images seen since the last log, over all processes."""
    clock: float = field(default_factory=time.perf_counter)
    """When that was."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Teacher and student, unwrapped."""
        return {"teacher": self.learner.teacher, "student": self.accelerator.unwrap_model(self.learner.student)}


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
        if checkpoint is None:
            folder.create(recipe)
        folder.forget_after(run.step)
        folder.describe(str(accelerator.device), accelerator.num_processes, parts.splits)
    if recipe.train.trackers:
        accelerator.init_trackers(recipe.name)
    with Display(folder, run.step, run.steps, main) as display:
        _announce(run, display)
        for _ in run_steps(run, display):
            pass
    if recipe.train.trackers:
        accelerator.end_training()
    return folder.path


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """The Accelerator of a recipe. Raises RunError for FSDP and DeepSpeed, and for a batch that cannot be split."""
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(folder),
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


def run_steps(run: Run, display: Display) -> Iterator[int]:
    """Train to the last step; yields the number of each finished step."""
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
                save_picture(run, hosts[0])
        if last or run.step % train.checkpoint_every == 0:
            save_checkpoint(run)
        yield run.step


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
    images, masks, valid = (
        tensor.to(device, non_blocking=True) for tensor in (to_unit(host.images.to(device)), host.masks, host.valid)
    )
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
    ema_update(learner.teacher, run.networks["student"], ema_decay(run.step, train.ema))
    return summed, statistics


def seed_draws(seed: int, step: int, place: int) -> None:
    """Make every random draw on the device a function of (seed, step, place in the batch)."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + place)


def average_buffers(run: Run) -> None:
    """Give all processes the same float buffers (batch-norm statistics), where no SyncBatchNorm has done so."""
    world = run.accelerator.num_processes
    if world == 1:
        return
    for buffer in run.networks["student"].buffers():
        if buffer.is_floating_point():
            buffer.copy_(all_sum(buffer) / world)


def log_step(run: Run, display: Display, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
    """Write losses and diagnostics of a step to metrics.jsonl, trackers and display."""
    values: dict[str, Any] = {name: float(all_sum(value)) for name, value in losses.items()}
    values["lr"] = run.optimizer.param_groups[0]["lr"]
    values["memory_gib"] = memory_gib(run.accelerator.device)
    values["images_per_second"] = run.images / max(time.perf_counter() - run.clock, 1e-9)
    run.images, run.clock = 0, time.perf_counter()
    values |= diagnostics(run, statistics)
    if not run.accelerator.is_main_process:
        return
    run.folder.record("train", run.step, values)
    scalars = {name: value for name, value in values.items() if isinstance(value, float)}
    if run.recipe.train.trackers:
        run.accelerator.log(scalars, step=run.step)
    display.step(run.step, values)


def diagnostics(run: Run, statistics: dict[str, Tensor]) -> dict[str, Any]:
    """Facts about the pseudo-labels of a step, as plain numbers."""
    if "histogram" not in statistics:
        return {}
    table: dict[str, Any] = {name: value.tolist() for name, value in statistics.items()}
    seen, known = max(table["seen"], 1), table["known"]
    values = {
        "high_entropy": table["high_entropy"] / seen,
        "mean_weight": table["weight"] / seen,
        "histogram": [count / seen for count in table["histogram"]],
        "class_weights": run.parts.stages.rebalance(statistics["rebalance"]).tolist(),
    }
    return values | ({"pseudo_label_accuracy": table["right"] / known} if known else {})


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**30)
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def score(run: Run, display: Display) -> None:
    """Evaluate teacher and student on the validation set; write weights/last, and weights/best when it is."""
    kind = run.recipe.eval.network
    scores = {name: _evaluate(run, network, run.parts.splits.val) for name, network in run.networks.items()}
    summary: dict[str, Any] = {}
    if scores[kind] is not None:
        summary = {f"{name}_miou": value.miou for name, value in scores.items() if value is not None}
        known = {name: value.to_json() for name, value in scores.items() if value is not None}
        if run.accelerator.is_main_process:
            run.folder.record("eval", run.step, {**summary, "scores": known})
            if run.recipe.train.trackers:
                run.accelerator.log(summary, step=run.step)
        text = ", ".join(f"{name} mIoU {100 * value.miou:.2f}" for name, value in scores.items() if value is not None)
        better = not run.best or scores[kind].miou > run.best["miou"]  # type: ignore[union-attr]
        display.scored(f"step {run.step}: {text}{' (best)' if better else ''}")
    else:
        better = False
    facts = {"network": kind, "step": run.step, "selection": "last", **summary}
    _save(run, run.folder.last, facts, scores[kind])
    if better:
        run.best = {"step": run.step, "miou": summary[f"{kind}_miou"]}
        _save(run, run.folder.best, facts | {"selection": f"best {kind} mIoU on data.val"}, scores[kind])


def save_picture(run: Run, host: HostBatch) -> None:
    """Write pictures/step-*.png: what the teacher says about the last batch. Two-dimensional data only."""
    if len(run.parts.crop) == 2:
        batch = to_device(host, run.accelerator.device, semi=True, logging=True)
        shown = Batch(*(tensor[:PICTURES] for tensor in batch))  # type: ignore[index]
        grid, columns = draw_panel(run.learner, shown, run.parts.dataset.palette)
        save_panel(run.folder.path / "pictures" / f"step-{run.step:08d}.png", grid, columns)


def _evaluate(run: Run, network: nn.Module, items: list[Item]) -> Scores | None:
    if not items:
        return None
    accelerator = run.accelerator
    model = Model(network, run.parts.card())
    return evaluate(
        model,
        run.parts.dataset,
        items,
        workers=run.recipe.data.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def _save(run: Run, path: Path, facts: dict[str, Any], scores: Scores | None) -> None:
    if run.accelerator.is_main_process:
        kind = run.recipe.eval.network
        detail = {} if scores is None else {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
        card = run.parts.card().model_copy(update={"source": kind, "step": run.step, "scores": {**facts, **detail}})
        save_weights(path, run.networks[kind], card)


def save_checkpoint(run: Run) -> None:
    """Write everything that another process needs to go on as if nothing had happened."""
    if run.accelerator.is_main_process:
        scaler = run.accelerator.scaler
        state = {
            "step": run.step,
            "best": run.best,
            "optimizer": run.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "stages": {name: stage.state_dict() for name, stage in run.parts.stages.modules().items()},
            **{name: network.state_dict() for name, network in run.networks.items()},
        }
        run.folder.save_checkpoint(run.step, state, run.recipe.train.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a checkpoint's state into a freshly prepared run. Raises RunError when it does not fit."""
    try:
        for name, network in run.networks.items():
            network.load_state_dict(state[name])
        for name, stage in run.parts.stages.modules().items():
            stage.load_state_dict(state["stages"][name])
        run.optimizer.load_state_dict(state["optimizer"])
        if run.accelerator.scaler and state["scaler"]:
            run.accelerator.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"The checkpoint does not fit this recipe: {reason}\nResume with the recipe of the run."
        ) from None
    run.step, run.best = state["step"], dict(state["best"])
