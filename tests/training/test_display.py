"""What a run shows: plain lines elsewhere, a live panel on a terminal."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_learner import make, make_batch

from farcluss.runs.folder import RunFolder
from farcluss.training import display
from farcluss.training.panels import GAP, HEADER, draw_panel, save_panel

VALUES = {
    "total": 1.5,
    "supervised": 1.0,
    "unsupervised": 1.0,
    "lr": 0.01,
    "images_per_second": 12.5,
    "memory_gib": 0.5,
}


def show(tmp_path, shown=True):
    with display.Display(RunFolder(tmp_path), 0, 100, shown) as view:
        view.log("hello [bold]")
        view.log_scores("step 10: teacher mIoU 50.00")
        view.log_step(20, VALUES)
        panel = view.live.get_renderable() if view.live else None
    return panel


def test_plain_lines_elsewhere(tmp_path, capsys):
    assert show(tmp_path) is None
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["hello [bold]", "step 10: teacher mIoU 50.00"]
    for part in ("step 20/100", "total 1.5000", "supervised 1.0000", "lr 1.00e-02", "12.5 images/s", "left "):
        assert part in out[2]
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == out


def test_other_processes_print_nothing(tmp_path, capsys):
    show(tmp_path, shown=False)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "log.txt").exists()


def test_a_live_panel_on_a_terminal(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(display, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    panel = show(tmp_path)
    assert "hello [bold]" in screen.getvalue()
    text = io.StringIO()
    Console(file=text, width=100).print(panel)
    for part in ("20 / 100", "12.5 images/s", "0.50 GiB", "unsupervised", "mIoU 50.00"):
        assert part in text.getvalue()


@pytest.mark.parametrize("truth", [True, False])
def test_panels_show_what_the_teacher_says(tmp_path, truth):
    learner, batch = make(), make_batch()
    batch = batch._replace(valid=torch.ones_like(batch.valid))
    if not truth:
        batch = batch._replace(truth=torch.full_like(batch.truth, 255))
    palette = ((10, 0, 0), (0, 20, 0), (0, 0, 30), (40, 40, 0))
    calls = []
    learner.teacher.register_forward_hook(lambda *_: calls.append(1))
    grid, columns = draw_panel(learner, batch, palette)
    assert columns == 5 + truth and len(calls) == 1
    height, width = batch.unlabeled.shape[2:]
    assert grid.shape == (2 * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    shown = grid[:height, 2 * (width + GAP) :][:, :width]
    expected = learner.teacher(learner.normalize(batch.unlabeled)).logits[0].argmax(0)
    assert (shown == np.array(palette)[expected.numpy()]).all()
    save_panel(tmp_path / "p.png", grid, columns)
    picture = Image.open(tmp_path / "p.png")
    factor = 1200 // grid.shape[1]
    assert picture.size == (grid.shape[1] * factor, grid.shape[0] * factor + HEADER)
    assert (np.asarray(picture)[HEADER::factor, ::factor] == grid).all()
