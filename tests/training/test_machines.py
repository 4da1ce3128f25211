"""Two machines train as one: two launchers on loopback, each with its own output folder."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import one_of_many
import psutil
import pytest
import torch

from farcluss.runs.checkpoints import read

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
MACHINES, WORLD = 2, 2
PATIENCE = 300  # seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch_command(machine: int, port: int) -> list[str]:
    # --multi_gpu makes accelerate start torchrun's agent, on a CPU too; its --cpu would start one process alone.
    options = {
        "config_file": HERE.parent / "accelerate_config.yaml",  # else what the user has stored would take part
        "num_machines": MACHINES,
        "num_processes": WORLD,
        "machine_rank": machine,
        "main_process_ip": "127.0.0.1",
        "main_process_port": port,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *flags]


def start(folder: Path, machine: int, port: int) -> subprocess.Popen:
    script = [str(HERE / "one_of_many.py"), str(WORLD), str(folder / "tiny.toml"), str(folder / f"machine-{machine}")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / f"machine-{machine}.txt").open("w") as said:
        command = [*launch_command(machine, port), *script]
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def finish(launchers: list[subprocess.Popen]) -> list[int | None]:
    """Exit codes, once all have ended, one has failed, or patience has; then the others are stopped."""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            codes = [launcher.poll() for launcher in launchers]
            if None not in codes or any(codes):
                break
            time.sleep(0.1)
        return codes
    finally:
        for launcher in launchers:
            if launcher.poll() is None:
                launcher.terminate()  # which stops its processes, too
        for launcher in launchers:
            with suppress(subprocess.TimeoutExpired):
                launcher.wait(60)
            launcher.kill()
            launcher.wait()


def left_behind(folder: Path) -> list[str]:
    """Processes of the group that still run; they are ended."""
    alive = []
    for file in folder.glob("rank-*.pid"):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(file.read_text()))
            if str(folder) in " ".join(process.cmdline()):  # and not another that has got the number since
                process.kill()
                alive.append(file.stem)
    return alive


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    state = read(folder / "checkpoints" / "step-00000006.pt").state
    return {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in state[who].items()}


def test_two_machines_equal_one_process(tmp_path):
    (tmp_path / "tiny.toml").write_text(one_of_many.RECIPE)
    port = free_port()
    codes = finish([start(tmp_path, machine, port) for machine in range(MACHINES)])
    said = "\n".join((tmp_path / f"machine-{machine}.txt").read_text()[-3000:] for machine in range(MACHINES))
    assert left_behind(tmp_path) == [], said
    assert codes == [0] * MACHINES, said
    assert sorted(file.stem for file in tmp_path.glob("*.done")) == [f"rank-{rank}" for rank in range(WORLD)]
    # Only the first machine has a run directory: machines need not share a file system.
    assert (tmp_path / "machine-0" / "metrics.jsonl").exists()
    assert not (tmp_path / "machine-1").exists()

    one_of_many.train_tiny(str(tmp_path / "tiny.toml"), str(tmp_path / "alone"))
    alone, together = tensors(tmp_path / "alone"), tensors(tmp_path / "machine-0")
    assert alone.keys() == together.keys()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-5, atol=1e-6, msg=name)
    pairs = list(zip(lines(tmp_path / "machine-0"), lines(tmp_path / "alone"), strict=True))
    assert len(pairs) == 8  # six steps, two evaluations
    for mine, theirs in pairs:
        assert (mine["kind"], mine["step"]) == (theirs["kind"], theirs["step"])
        if mine["kind"] == "train":
            for name in ("total", "supervised", "unsupervised", "contrastive", "class_weights", "lr"):
                assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name
        else:
            assert mine["scores"] == theirs["scores"]
