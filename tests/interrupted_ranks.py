"""Two processes that are killed or signalled; torchrun starts both anew whenever one has died.

interrupted_ranks.py FOLDER MODE KILLS SEED: MODE is `whole`, `killed` (one process or the other, KILLS times, at random
events, every third time in the midst of writing a checkpoint) or `signalled` (one process alone gets SIGUSR1).
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import interrupted

SETTINGS = ["network.name=deeplabv3plus", "network.encoder=test_resnet", "network.aspp_channels=8", "train.steps=6",
            "network.head_channels=8"]  # fmt: skip


def launch(folder: Path, mode: str, kills: int = 0, seed: int = 0) -> dict:
    """Train in two processes until it is done; what the run has come to, and how many attempts it took."""
    (folder / "recipe.toml").write_text(interrupted.RECIPE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max_restarts", str(kills), __file__, str(folder), mode, str(kills), str(seed)]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else a new attempt may look for the old one's processes
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300 + 60 * kills)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"{mode}.json").read_text())


def signal_one(rank: int) -> None:
    from farcluss.training import engine

    original = engine.one_step

    def one_step(run, *arguments):
        if run.step == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(run, *arguments)

    engine.one_step = one_step


def main(folder: Path, mode: str, kills: int, seed: int) -> None:
    import torch.distributed as dist
    from adaptive import Adaptive

    from farcluss import load_recipe, register, train
    from farcluss.errors import Stopped

    register("weight", "adaptive", Adaptive)

    attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    settings = SETTINGS
    if mode == "signalled":
        signal_one(rank)
    elif attempt < kills and rank == (attempt % 3 != 2) * (attempt % 2):  # the first process alone writes
        writing = attempt % 3 == 2
        event = random.Random(f"{seed} {attempt}").randint(100, 1000 if writing else 12000)
        settings = [*SETTINGS, f"data.workers={attempt % 2}"]
        interrupted.Killer(interrupted.WRITING if writing else interrupted.ANYWHERE, event)
    try:
        train(load_recipe(folder / "recipe.toml", (), settings), folder / mode, resume="auto")
    except Stopped as stop:
        (folder / f"stopped-{rank}").write_text(f"{stop.signal} {stop}")
    sys.setprofile(None)
    assert dist.get_world_size() == 2
    dist.destroy_process_group()
    if rank == 0:
        result = {"attempts": attempt, **interrupted.outcome(folder, mode)}
        (folder / f"{mode}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo, even of a group that was left, at times abort an interpreter that ends
