"""`farcluss run --devices N`: the launcher's work without its noise."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commandline import cli

from farcluss.jobs.launching import without
from farcluss.runs.folder import RunFolder


def words(recipe, folder, *more):
    return [sys.executable, "-m", "farcluss", "run", str(recipe), "-o", str(folder), "--devices", "2", *more]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_options_of_the_launcher_go_no_further():
    given = [
        "run",
        "a.toml",
        "--devices",
        "2",
        "--set",
        "train.steps=3",
        "--machine=1",
        "--address",
        "node0",
        "-o",
        "x",
    ]
    names = ("--devices", "--machine", "--address")
    assert without(given, names) == ["run", "a.toml", "--set", "train.steps=3", "-o", "x"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--devices", "2", "--machines", "2"], "name the first one"),
        (["--devices", "2", "--machines", "2", "--address", "node0", "--machine", "2"], "counts from 0"),
        (["--devices", "2", "--machines", "2", "--address", "node0:x"], "HOST:PORT"),
        (["--devices", "2", "--machines", "2", "--address", ":29500"], "HOST:PORT"),
    ],
)
def test_refusals(options, text, tiny_recipe, tmp_path):
    assert text in cli("run", tiny_recipe, "-o", tmp_path / "run", *options).refusal
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_and_an_error_is_told_once(tiny_recipe, tmp_path):
    done = subprocess.run(words(tiny_recipe, tmp_path / "run"), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "x 2, 2 steps" in done.stdout and RunFolder(tmp_path / "run").last.exists()
    again = subprocess.run(words(tiny_recipe, tmp_path / "run"), capture_output=True, text=True, env=environment())
    assert again.returncode == 1
    lines = again.stderr.strip().splitlines()
    assert lines[0].startswith("Error: ") and "holds a run already" in lines[0] and len(lines) <= 3, again.stderr


@pytest.mark.slow
def test_a_signal_ends_it_with_a_checkpoint(tiny_recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = subprocess.Popen(
        words(tiny_recipe, folder.path, "--set", "train.steps=100000"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    for _ in range(600):
        if any(line["kind"] == "train" for line in folder.lines()):
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert folder.has_checkpoint() and "Traceback" not in told, told
