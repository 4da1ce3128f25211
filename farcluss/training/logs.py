"""The log of a run: losses and diagnostics, skipped steps, first and last lines."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farcluss.data.loader import HostBatch
from farcluss.errors import RunError, SampleError, some
from farcluss.learning.learner import ADAPTIVE
from farcluss.networks.base import batch_norms
from farcluss.tensors.distributed import all_sum
from farcluss.training.display import Display
from farcluss.training.remarks import patches, remarks, risks
from farcluss.training.state import Run
from farcluss.training.watch import Outcome

NAMED = 8
"""Images that an error message names."""
LOOKED_AT = 50
"""Steps whose labeled crops are searched for every class."""


def log_step(run: Run, display: Display, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
    """Write losses and diagnostics of a step to metrics.jsonl, the trackers and the display."""
    values: dict[str, Any] = {name: float(all_sum(value)) for name, value in losses.items()}
    values["skipped_steps"] = run.skipped
    rates = {group["peak_lr"]: group["lr"] for group in run.optimizer.param_groups}
    # The encoder's; of a frozen one there is none.
    values["lr"] = rates.get(run.recipe.train.scaled_lr, next(iter(rates.values())))
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
    display.log_step(run.step, values)
    if run.advisor:
        warn(display, run.step, run.advisor.logged(run.step, values))


def warn(display: Display, step: int, texts: Sequence[str]) -> None:
    """Log warnings about how a run goes."""
    for text in texts:
        display.log(f"Warning at step {step}: {text}")


def note_outcomes(run: Run, display: Display, wait: bool) -> None:
    """Process the outcomes of the last steps: count skipped ones, and note a signal.

    Raises:
        RunError: too many steps in a row were not finite; SampleError on a process whose own images were affected.
    """
    if run.accelerator.num_processes == 1:  # no need to wait for the flags
        run.stop = run.interruption.signal
    for outcome in run.watch.ready(wait):
        run.stop = run.stop or outcome.signal
        if not outcome.nonfinite:
            run.skipped_in_row = 0
            continue
        run.skipped += 1
        run.skipped_in_row += 1
        if run.accelerator.is_main_process:
            run.folder.record("skip", outcome.step, {"parts": list(outcome.nonfinite)})
        if run.skipped_in_row == 1:
            display.log(f"step {outcome.step} skipped: its {nonfinite_parts(outcome)} is not finite")
        if run.skipped_in_row >= run.recipe.train.max_skipped:
            raise divergence_error(run, outcome)


def note_classes(run: Run, display: Display, host: HostBatch) -> None:
    """Name the classes of which the first labeled crops have no pixel, after `LOOKED_AT` steps; masks on the host.

    And say where unlabeled images look unlike the labeled ones.
    """
    if run.advisor:
        warn(display, run.step, run.advisor.look(host))
    if run.unseen is None:
        run.unseen = set(range(len(run.parts.dataset.classes)))
    if not run.unseen or run.looked_at >= LOOKED_AT:
        return
    run.unseen -= set(torch.bincount(host.masks[: host.labeled].flatten()).nonzero().flatten().tolist())
    run.looked_at += 1
    if run.unseen and run.looked_at == min(LOOKED_AT, run.steps):
        names = [repr(run.parts.dataset.classes[index]) for index in sorted(run.unseen)]
        display.log(
            f"Warning: no labeled crop of {run.looked_at} steps has a pixel of {some(names)}. If the masks have none, "
            "check data.classes and data.ignore_index; `farcluss check` counts them."
        )


def failed_training(run: Run) -> RunError:
    """The error for a run that skipped most of its steps, or whose result is not finite."""
    reasons = {
        f"{run.skipped} of {run.step} steps were skipped, as a loss or gradient was not finite": run.skipped,
        f"weights or output of the {run.recipe.eval.network} are not finite": run.broken,
    }
    return RunError(
        f"The training failed: {'; '.join(reason for reason, holds in reasons.items() if holds)}.\n"
        "Check data.mean, data.std and train.lr; `farcluss check` tries a step and names the likely cause."
    )


def nonfinite_parts(outcome: Outcome) -> str:
    """The losses of a step that were not finite, or its gradient, in words."""
    return " and the ".join(f"{part} loss" if part != "gradient" else part for part in outcome.nonfinite)


def divergence_error(run: Run, outcome: Outcome) -> RunError | SampleError:
    """The error for too many non-finite steps; saves the images of this process if its own losses were affected."""
    text = (
        f"The {nonfinite_parts(outcome)} of {run.skipped_in_row} steps in a row, up to step {outcome.step}, "
        "were not finite: the training has diverged, or images are corrupt."
    )
    if not outcome.local:
        return RunError(f"{text}\nAnother process reports the images.")
    path = run.folder.save_broken(outcome.step, run.accelerator.process_index, outcome.host)
    images = ", ".join(outcome.host.ids[:NAMED]) + (" ..." if len(outcome.host.ids) > NAMED else "")
    advice = "Lower train.lr, set train.clip, or inspect these images with `farcluss check`."
    return SampleError(f"{text}\nLast images: {images}; saved to {path}.\n{advice}")


def diagnostics(run: Run, statistics: dict[str, Tensor]) -> dict[str, Any]:
    """Statistics of the pseudo-labels of a step, as plain numbers."""
    if "histogram" not in statistics:
        return {}
    names = ("seen", "known", "right", "high_entropy", "histogram")
    table: dict[str, Any] = {name: statistics[name].tolist() for name in names}
    seen, known = max(table["seen"], 1), table["known"]
    values = {
        "high_entropy": table["high_entropy"] / seen,
        "histogram": [count / seen for count in table["histogram"]],
    }
    for kind in ADAPTIVE:
        figures = getattr(run.parts.stages, kind).figures(statistics[kind])
        values |= {name: figure.tolist() for name, figure in figures.items()}
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


def log_start(run: Run, display: Display, notes: Sequence[str]) -> None:
    """Log what is about to be trained."""
    splits, network, train = run.parts.splits, run.networks["student"], run.recipe.train
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    names = ", ".join(f"{name} {len(getattr(splits, name))} ({splits.names[name]})" for name in splits.names)
    for note in notes:
        display.log(note)
    display.log(f"{run.recipe.name}: {names}; {len(run.parts.dataset.classes)} classes")
    display.log(
        f"{run.recipe.network.name} {millions:.3f} M parameters on {run.accelerator.device} x "
        f"{run.accelerator.num_processes}, {run.steps} steps, run directory {run.folder.path}"
    )
    for remark in [*remarks(run.parts), *risks(run.parts), *patches(network, run.parts.crop)]:
        display.log(f"Warning: {remark}")
    if report := getattr(network, "pretrained_report", ""):
        display.log(report)
    if train.scaled_lr != train.lr:
        display.log(f"train.lr {train.lr:g} -> {train.scaled_lr:g}, as train.batch {train.scale_lr} -> {train.batch}")
    alone = run.accelerator.num_processes > 1 and run.accelerator.device.type != "cuda"
    apart = train.split_backward and run.recipe.semi_supervised
    if (alone or apart or train.accumulate > 1) and batch_norms(network) and not train.freeze_norms:
        part = "labeled or unlabeled images" if apart else "images"
        seen = "only the images of one process, unlike on CUDA" if alone else f"only the {part} of one micro-batch"
        display.log(f"Batch norm sees {seen}: the result depends on how a batch is split.")
    if run.step:
        display.log(f"resumed at step {run.step} of {run.steps}")


def log_end(run: Run, display: Display) -> None:
    """Log which weights are the best, and skipped steps and replaced images of the whole run."""
    if run.best:
        score = f"mIoU {100 * run.best['miou']:.2f}"
        display.log(f"{run.folder.best}: {run.recipe.eval.network} of step {run.best['step']}, {score}")
    if run.skipped:
        display.log(f"{run.skipped} steps were skipped because a loss or gradient was not finite; see metrics.jsonl")
    if run.replaced:
        display.log(f"{len(run.replaced)} images could not be read and were replaced by others:")
        for text, times in sorted(run.replaced.items()):
            display.log(f"  {times} x {text}")
