"""Trains a recipe several times, in this process or in several, which check what only they know.

torchrun would start each process anew; here they are forked, as those of `warm`.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import warm
from tiny_recipe import tiny_recipe

STEPS = 3
RECIPE = tiny_recipe(
    train=24,
    val=5,
    labeled=12,
    augment='"photometric"',
    steps=STEPS,
    batch=8,
    lr=0.005,
    checkpoint_every=1,
    every=STEPS,
)


DOUBLE = ["network.name=tiny64", "data.val=none"]
TRANSFORMER = ["network.name=vit64", "data.val=none"]
"""Settings of runs in float64, in which rounding hides nothing."""


def run_all(folder: Path, runs: dict[str, list[str]]):
    """Train `folder/recipe.toml` with each run's settings; each goes to `folder / name`. Yields the runs."""
    from adaptive import Adaptive
    from tiny_network import TinyNetwork

    from farcluss import load_recipe, train
    from farcluss.networks.dpt import dpt
    from farcluss.plugins import registry
    from farcluss.training import engine, steps

    class Double(TinyNetwork):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.double()

    def vit(in_channels, classes, dim, pretrained):
        return dpt(in_channels, classes, dim, pretrained, encoder="test_vit", features=8).double()

    made = []
    plugins = {("network", "tiny"): TinyNetwork, ("network", "tiny64"): Double, ("weight", "adaptive"): Adaptive}
    plugins["network", "vit64"] = vit
    for place, plugin in plugins.items():
        registry.register(*place, plugin)
    try:
        with patch.object(engine, "prepare", lambda *a, f=engine.prepare: made.append(f(*a)) or made[-1]):
            for name, settings in runs.items():
                unit = steps.to_unit
                double = patch.object(steps, "to_unit", lambda images, unit=unit: unit(images).double())
                recipe = load_recipe(folder / "recipe.toml", (), settings)
                if recipe.network.name in ("tiny64", "vit64"):
                    with double:
                        train(recipe, folder / name)
                else:
                    train(recipe, folder / name)
                yield made[-1]
    finally:
        for place in plugins:
            registry.unregister(*place)


def launch(*jobs: tuple[Path, int, dict[str, list[str]]]) -> None:
    """Train the recipe of each `(folder, world, runs)` in `world` processes, one job after the other."""
    given = json.dumps([[str(folder), world, runs] for folder, world, runs in jobs])
    done = warm.python("import sys, ranks\nranks.main(sys.argv[1])", given, ACCELERATE_USE_CPU="true")
    assert done.code == 0, done.err[-3000:]


def train_as_one_of(world: int, folder: Path, runs: dict[str, list[str]]) -> None:
    import torch
    import torch.distributed as dist

    for run in run_all(folder, runs):
        assert dist.get_world_size() == world
        networks = run.networks.values()
        mine = torch.cat([t.double().flatten() for network in networks for t in network.state_dict().values()])
        theirs = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(theirs, mine)
        assert all(torch.equal(mine, other) for other in theirs), "the processes hold different weights"
    dist.destroy_process_group()


def fork(rank: int, port: int, folder: Path, world: int, runs: dict[str, list[str]]) -> int:
    """Start one process of a group with what torchrun would tell it; its number."""
    if child := os.fork():
        return child
    signal.alarm(warm.PATIENCE)  # which a fork does not inherit
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    try:
        train_as_one_of(world, folder, runs)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main(jobs: str) -> None:
    """Work through the jobs; when one process of a group fails, the others, which would wait for it, are ended."""
    for folder, world, runs in json.loads(jobs):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        alive = {fork(rank, port, Path(folder), world, runs) for rank in range(world)}
        while alive:
            child, status = os.wait()
            alive.discard(child)
            if status:
                for other in alive:
                    os.kill(other, signal.SIGKILL)
                raise SystemExit(1)
