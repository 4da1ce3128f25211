"""What each process of a group does: it trains the tiny recipe. Started as `one_of_many.py WORLD RECIPE RUN`.

The group's size is asserted here, from inside: a launcher that starts fewer processes than it was asked for looks
green from outside.
"""

import os
import sys
from pathlib import Path

from tiny_recipe import tiny_recipe

# A recipe whose steps do not depend on how a batch is split, but for rounding.
RECIPE = tiny_recipe(augment='"photometric"\nmix = "cutmix"', keep=2)


def train_tiny(recipe: str, output: str) -> None:
    from tiny_network import TinyNetwork

    from farcluss import load_recipe, train
    from farcluss.plugins import registry

    registry.register("network", "tiny", TinyNetwork)
    try:
        train(load_recipe(recipe), output)
    finally:
        registry.unregister("network", "tiny")


def main(world: int, recipe: str, output: str) -> None:
    rank = os.environ["RANK"]
    Path(recipe).with_name(f"rank-{rank}.pid").write_text(str(os.getpid()))
    train_tiny(recipe, output)
    import torch.distributed as dist
    from accelerate import PartialState

    # Both are asked: on a CPU that Accelerate has not been told of, the group has all processes and Accelerate one.
    assert (dist.get_world_size(), PartialState().num_processes) == (world, world)
    assert dist.get_backend() == "gloo"
    Path(recipe).with_name(f"rank-{rank}.done").touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo, even of a group that was left, at times abort an interpreter that ends
