"""Trains a recipe several times, in this process or in several, which check what only they know.

In several: torchrun --nproc_per_node WORLD ranks.py JOB.json, where the job holds `world`, `folder` and `runs`.
"""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from tiny_recipe import tiny_recipe

RECIPE = tiny_recipe(
    train=24, val=5, labeled=12, augment='"photometric"', steps=5, batch=8, lr=0.005, checkpoint_every=1, every=5
)


DOUBLE = ["network.name=tiny64", "data.val=none"]
"""Settings of a run in float64, in which rounding hides nothing."""


def run_all(folder: Path, runs: dict[str, list[str]]):
    """Train `folder/recipe.toml` with each run's settings; each goes to `folder / name`. Yields the runs."""
    from tiny_network import TinyNetwork

    from farcluss import engine, load_recipe, plugins, steps, train

    class Double(TinyNetwork):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.double()

    made = []
    for name, network in (("tiny", TinyNetwork), ("tiny64", Double)):
        plugins.register("network", name, network)
    try:
        with patch.object(engine, "prepare", lambda *a, f=engine.prepare: made.append(f(*a)) or made[-1]):
            for name, settings in runs.items():
                unit = steps.to_unit
                double = patch.object(steps, "to_unit", lambda images, unit=unit: unit(images).double())
                recipe = load_recipe(folder / "recipe.toml", (), settings)
                if recipe.network.name == "tiny64":
                    with double:
                        train(recipe, folder / name)
                else:
                    train(recipe, folder / name)
                yield made[-1]
    finally:
        for name in ("tiny", "tiny64"):
            plugins.unregister("network", name)


def launch(folder: Path, world: int, runs: dict[str, list[str]]) -> None:
    """Train in `world` processes."""
    job = {"world": world, "folder": str(folder), "runs": runs}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, __file__, str(folder / "job.json")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def main(job: dict) -> None:
    import torch
    import torch.distributed as dist

    for run in run_all(Path(job["folder"]), job["runs"]):
        assert dist.get_world_size() == job["world"]
        networks = run.networks.values()
        mine = torch.cat([t.double().flatten() for network in networks for t in network.state_dict().values()])
        theirs = [torch.empty_like(mine) for _ in range(job["world"])]
        dist.all_gather(theirs, mine)
        assert all(torch.equal(mine, other) for other in theirs), "the processes hold different weights"
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
