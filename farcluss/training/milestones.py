"""What happens between steps: log, notice, score, draw, checkpoint, restore."""

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farcluss.data.loader import HostBatch
from farcluss.errors import Cancelled, RunError, SampleError
from farcluss.inference.evaluation import Scores, evaluate_all
from farcluss.inference.weights import Model, save_weights
from farcluss.learning.batches import Batch
from farcluss.runs import checkpoints
from farcluss.runs.checkpoints import Checkpoint
from farcluss.tensors.distributed import all_sum, gather_on_main, on_main
from farcluss.training.display import Display
from farcluss.training.panels import draw_panel, save_panel
from farcluss.training.state import PROGRESS, Run
from farcluss.training.steps import to_device
from farcluss.training.watch import Outcome

PICTURES = 4
NAMED = 8
"""How many images an error names."""


def log_step(run: Run, display: Display, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
    """Write losses and diagnostics of a step to metrics.jsonl, trackers and display."""
    values: dict[str, Any] = {name: float(all_sum(value)) for name, value in losses.items()}
    values["skipped_steps"] = run.skipped
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


def take_note(run: Run, display: Display, wait: bool) -> None:
    """Learn how the last steps went: count those that were skipped, and notice a signal.

    Raises:
        RunError: too many in a row were not finite; SampleError where this process knows in which images.
    """
    if run.accelerator.num_processes == 1:  # nobody to agree with
        run.stop = run.interruption.signal
    for outcome in run.watch.ready(wait):
        run.stop = run.stop or outcome.signal
        if not outcome.broken:
            run.skipped_in_row = 0
            continue
        run.skipped += 1
        run.skipped_in_row += 1
        if run.accelerator.is_main_process:
            run.folder.record("skip", outcome.step, {"parts": list(outcome.broken)})
        if run.skipped_in_row == 1:
            display.say(f"step {outcome.step} is skipped, as its {broken_parts(outcome)} is not finite")
        if run.skipped_in_row >= run.recipe.train.max_skipped:
            raise give_up(run, outcome)


def broken_parts(outcome: Outcome) -> str:
    """What was not finite in a step, in words."""
    return " and the ".join(f"{part} loss" if part != "gradient" else part for part in outcome.broken)


def give_up(run: Run, outcome: Outcome) -> RunError | SampleError:
    """The error for too many steps that were not finite; writes the images of this process if they are to blame."""
    text = (
        f"The {broken_parts(outcome)} of {run.skipped_in_row} steps in a row, up to step {outcome.step}, "
        "were not finite: the training has diverged, or images are broken."
    )
    if not outcome.own:
        return RunError(f"{text}\nAnother process says in which images.")
    path = run.folder.save_broken(outcome.step, run.accelerator.process_index, outcome.host)
    images = ", ".join(outcome.host.ids[:NAMED]) + (" ..." if len(outcome.host.ids) > NAMED else "")
    advice = "Lower train.lr, set train.clip, or look at these images with `farcluss check`."
    return SampleError(f"{text}\nLast images: {images}; they have been written to {path}.\n{advice}")


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


def reach(run: Run, display: Display, host: HostBatch | None) -> None:
    """Do what is due at this step: a picture, a checkpoint, then the evaluation, which may take long.

    Args:
        run: after a step, or resumed.
        display: says the scores.
        host: the images of the step, for the picture; None for none.
    """
    if run.stop:
        return
    if run.due() and host is not None and run.accelerator.is_main_process:
        save_picture(run, to_device(host, run.accelerator.device, semi=True, logging=True))
    if run.checkpoint_due():
        save_checkpoint(run)
    if run.due() and not run.scored:
        score(run, display)


def score(run: Run, display: Display) -> None:
    """Evaluate teacher and student on the validation set; write weights/last, and weights/best when it is.

    A signal makes it stop without a result; the run that resumes does it again.
    """
    start, kind = time.perf_counter(), run.recipe.eval.network
    on_main(run.writer.wait)  # its checkpoint gets a note of the scores, and no loader is forked beside a thread
    try:
        known = _evaluate(run)
    except Cancelled:
        run.stop = run.interruption.agreed(run.accelerator.device)
        return
    summary = {f"{name}_miou": value.miou for name, value in known.items()}
    subject = [kind, *(item.id for item in run.parts.splits.val)]
    mark = {"of": hashlib.sha256("\n".join(subject).encode()).hexdigest()[:8]}
    before = run.best.get("miou", -1.0) if run.best.get("of") == mark["of"] else -1.0  # else it was of something else
    better = kind in known and known[kind].miou > before  # which NaN is not
    if better:
        run.best = {"step": run.step, "miou": known[kind].miou, **mark}
    if known:
        text = ", ".join(f"{name} mIoU {100 * value.miou:.2f}" for name, value in known.items())
        display.scored(f"step {run.step}: {text}{' (best)' if better else ''}")
    run.scored = True
    on_main(lambda: _write_scores(run, known, summary, better))
    run.clock += time.perf_counter() - start  # the speed that is shown is that of training


def _write_scores(run: Run, scores: dict[str, Scores], summary: dict[str, float], better: bool) -> None:
    kind, folder = run.recipe.eval.network, run.folder
    if scores:
        tables = {name: value.to_json() for name, value in scores.items()}
        folder.record("eval", run.step, {**summary, "scores": tables})
        if run.recipe.train.trackers:
            run.accelerator.log(summary, step=run.step)
    facts = {"network": kind, "step": run.step, **summary}
    _save(run, folder.last, {**facts, "selection": "last"}, scores.get(kind))
    if better:
        _save(run, folder.best, {**facts, "selection": f"best {kind} mIoU on data.val"}, scores.get(kind))
    if run.saved:
        folder.flush()
        checkpoints.note_progress(folder.checkpoint(run.step), run.progress)


def save_picture(run: Run, batch: Batch) -> None:
    """Write pictures/step-*.png: what the teacher says about a batch; of volumes, their middle planes."""
    if len(run.parts.crop) > 1:
        shown = Batch(*(tensor[:PICTURES] for tensor in batch))  # type: ignore[index]
        grid, columns = draw_panel(run.learner, shown, run.parts.dataset.palette)
        save_panel(run.folder.path / "pictures" / f"step-{run.step:08d}.png", grid, columns)


def _evaluate(run: Run) -> dict[str, Scores]:
    """Scores of each network on the validation set; none where there is none."""
    if not run.parts.splits.val:
        return {}
    accelerator = run.accelerator
    scores = evaluate_all(
        [Model(network, run.parts.card()) for network in run.networks.values()],
        run.parts.dataset,
        run.parts.splits.val,
        workers=run.recipe.data.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        cancelled=lambda: bool(run.interruption.signal),
    )
    return dict(zip(run.networks, scores, strict=True))


def _save(run: Run, path: Path, facts: dict[str, Any], scores: Scores | None) -> None:
    kind = run.recipe.eval.network
    detail = {} if scores is None else {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
    card = run.parts.card().model_copy(update={"source": kind, "step": run.step, "scores": {**facts, **detail}})
    save_weights(path, run.networks[kind], card)


def save_checkpoint(run: Run) -> None:
    """Have all written that another process needs to go on as if nothing had happened; training waits for a copy only.

    Raises:
        RunError: the checkpoint before could not be written.
    """
    for counts in gather_on_main(run.fresh):
        run.replaced = dict(Counter(run.replaced) + counts)
    run.fresh = Counter()
    on_main(lambda: _submit_checkpoint(run))
    run.saved = True


def _submit_checkpoint(run: Run) -> None:
    run.writer.wait()  # first, so that there are never two copies
    scaler = run.accelerator.scaler
    state = {
        "optimizer": run.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "stages": {name: stage.state_dict() for name, stage in run.parts.stages.modules().items()},
        **{name: network.state_dict() for name, network in run.networks.items()},
    }
    state, progress = checkpoints.snapshot((state, run.progress))
    keep = run.recipe.train.keep_checkpoints
    run.folder.flush()
    path, step = run.folder.checkpoint(run.step), run.step
    run.writer.submit(lambda: checkpoints.save(path, step, state, progress, run.fingerprint, keep))


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's state into a freshly prepared run. Raises RunError when it does not fit."""
    state, progress = checkpoint.state, checkpoint.manifest.progress
    try:
        for name, network in run.networks.items():
            network.load_state_dict(state[name])
        for name, stage in run.parts.stages.modules().items():
            stage.load_state_dict(state["stages"][name])
        load_optimizer(run.optimizer, state["optimizer"])
        if run.accelerator.scaler and state["scaler"]:
            run.accelerator.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"The checkpoint does not fit this recipe: {reason}\nResume with the recipe of the run."
        ) from None
    for name in PROGRESS:
        setattr(run, name, progress.get(name, getattr(run, name)))
    run.saved = checkpoint.path.resolve() == run.folder.checkpoint(run.step).resolve()


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Restore an optimizer's memory of past steps; its settings stay those of the recipe. Raises ValueError."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if [group.keys() for group in settings] != [group.keys() - {"params"} for group in state["param_groups"]]:
        raise ValueError("it is of another optimizer")
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def announce(run: Run, display: Display, remarks: Sequence[str]) -> None:
    """Say what is about to run."""
    splits, network, train = run.parts.splits, run.networks["student"], run.recipe.train
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    names = ", ".join(f"{name} {len(getattr(splits, name))} ({splits.names[name]})" for name in splits.names)
    for remark in remarks:
        display.say(remark)
    display.say(f"{run.recipe.name}: {names}; {len(run.parts.dataset.classes)} classes")
    display.say(
        f"{run.recipe.network.name} {millions:.3f} M parameters on {run.accelerator.device} x "
        f"{run.accelerator.num_processes}, {run.steps} steps, run directory {run.folder.path}"
    )
    if report := getattr(network, "pretrained_report", ""):
        display.say(report)
    if train.scaled_lr != train.lr:
        display.say(f"train.lr {train.lr:g} -> {train.scaled_lr:g}, as train.batch {train.scale_lr} -> {train.batch}")
    alone = run.accelerator.num_processes > 1 and run.accelerator.device.type != "cuda"
    apart = train.split_backward and run.recipe.semi_supervised
    if (alone or apart or train.accumulate > 1) and _batch_norms(network):
        part = "micro-batch's labeled or unlabeled images" if apart else "micro-batch's images"
        seen = "one process's images, as on CUDA it would not" if alone else f"one {part}"
        display.say(f"Batch norm sees {seen}: here the result depends on how a batch is split.")
    if run.step:
        display.say(f"resumed at step {run.step} of {run.steps}")


def _batch_norms(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def conclude(run: Run, display: Display) -> None:
    """Say what has to be known of the whole run."""
    if run.skipped:
        display.say(f"{run.skipped} steps were skipped, as a loss or a gradient was not finite; see metrics.jsonl")
    if run.replaced:
        display.say(f"{len(run.replaced)} images could not be read, and others were taken instead:")
        for text, times in sorted(run.replaced.items()):
            display.say(f"  {times} x {text}")
