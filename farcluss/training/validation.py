"""Evaluation during training: scores, the last and the best weights, pictures."""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from farcluss.errors import Cancelled, counted
from farcluss.inference.calibration import calibrate
from farcluss.inference.evaluation import Scores, evaluate_all
from farcluss.inference.weights import Model, save_weights
from farcluss.learning.batches import Batch
from farcluss.runs import checkpoints
from farcluss.tensors.distributed import on_main
from farcluss.training.display import Display
from farcluss.training.logs import warn
from farcluss.training.panels import draw_panel, save_panel
from farcluss.training.state import Run

PICTURES = 4
"""Images in a picture."""


def score(run: Run, display: Display) -> None:
    """Evaluate teacher and student on the validation set; write weights/last, and weights/best if it is the best.

    A signal cancels the evaluation; the resumed run repeats it.
    """
    start, kind = time.perf_counter(), run.recipe.eval.network
    on_main(run.writer.wait)  # its manifest is updated below, and loader processes are not forked while a thread runs
    try:
        scores = _evaluate(run)
    except Cancelled:
        run.stop = run.interruption.agreed(run.accelerator.device)
        return
    summary = {f"{name}_miou": value.miou for name, value in scores.items()}
    names = [kind, *(item.id for item in run.parts.splits.val)]
    evaluated = {"of": hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]}
    comparable = run.best.get("of") == evaluated["of"]  # the same network on the same images
    before = run.best.get("miou", -1.0) if comparable else -1.0
    run.broken = bool(nonfinite_tensors(run.networks[kind]) or (kind in scores and scores[kind].broken))
    better = run.trained and kind in scores and scores[kind].miou > before  # False for NaN
    if better:
        run.best = {"step": run.step, "miou": scores[kind].miou, **evaluated}
    if scores:
        marks = {name: " (best)" if better and name == kind else "" for name in scores}
        text = ", ".join(f"{name} mIoU {100 * value.miou:.2f}{marks[name]}" for name, value in scores.items())
        display.log_scores(f"step {run.step}: {text}")
    if run.advisor:
        warn(display, run.step, run.advisor.scored(summary))
    probe(run, display)
    run.scored = True
    on_main(lambda: _write_scores(run, scores, summary, better))
    run.clock += time.perf_counter() - start  # the logged speed is that of training alone


def probe(run: Run, display: Display) -> None:
    """Tell how right and how sure the teacher is on the labeled images that are held back, see `data.probe`."""
    items, accelerator = run.parts.splits.probe, run.accelerator
    if not items:
        return
    scores, trust = calibrate(
        Model(run.networks["teacher"], run.parts.card()),
        run.parts.dataset,
        items,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        on_error=lambda *_: None,  # an image that cannot be read has no say
    )
    if not scores.confusion.any():
        return
    recall = {name: None if np.isnan(value) else float(value) for name, value in
              zip(scores.classes, scores.accuracy, strict=True)}  # fmt: skip
    known = {name: value for name, value in recall.items() if value is not None}
    worst = min(known, key=known.__getitem__)
    display.log(
        f"step {run.step}: teacher on {counted(len(items), 'held-back image')}: {100 * trust.accuracy:.1f} % right, "
        f"{100 * trust.mean_confidence:.1f} % sure; lowest recall {worst} {100 * known[worst]:.1f} %"
    )
    facts = {"accuracy": trust.accuracy, "mean_confidence": trust.mean_confidence, "ece": trust.ece, "recall": recall}
    on_main(lambda: run.folder.record("probe", run.step, facts))


def nonfinite_tensors(network: nn.Module) -> list[str]:
    """Names of a network's tensors that are not finite. Waits for the device."""
    tensors = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, good in zip(tensors, finite, strict=True) if not good]


def _write_scores(run: Run, scores: dict[str, Scores], summary: dict[str, float], better: bool) -> None:
    kind, folder = run.recipe.eval.network, run.folder
    if scores:
        tables = {name: value.to_json() for name, value in scores.items()}
        folder.record("eval", run.step, {**summary, "scores": tables})
        if run.recipe.train.trackers:
            run.accelerator.log(summary, step=run.step)
    metadata = {"network": kind, "step": run.step, **summary}
    _save_weights(run, folder.last, {**metadata, "selection": "last"}, scores.get(kind))
    if better:
        _save_weights(run, folder.best, {**metadata, "selection": f"best {kind} mIoU on data.val"}, scores.get(kind))
    if run.saved:
        folder.flush()
        checkpoints.update_progress(folder.checkpoint(run.step), run.progress)


def save_picture(run: Run, batch: Batch) -> None:
    """Write pictures/step-*.png: views, pseudo-labels and predictions of a batch; middle planes of volumes."""
    if len(run.parts.crop) > 1:
        shown = Batch(*(tensor[:PICTURES] for tensor in batch))  # type: ignore[index]
        grid, columns = draw_panel(run.learner, shown, run.parts.dataset.palette)
        save_panel(run.folder.path / "pictures" / f"step-{run.step:08d}.png", grid, columns)


def _evaluate(run: Run) -> dict[str, Scores]:
    """Scores of each network on the validation set; empty without one."""
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


def _save_weights(run: Run, path: Path, metadata: dict[str, Any], scores: Scores | None) -> None:
    kind = run.recipe.eval.network
    detail = {} if scores is None else {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
    card = run.parts.card().model_copy(update={"source": kind, "step": run.step, "scores": {**metadata, **detail}})
    save_weights(path, run.networks[kind], card)
