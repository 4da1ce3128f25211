"""Recipes of the layout `rasters` for drawn scenes."""

import json
from pathlib import Path

from drawn_scenes import CLASSES

REST = """
[network]
name = "deeplabv3plus"
encoder = "test_resnet"
pretrained = false
aspp_channels = 8
head_channels = 8
[stages]
augment = "identity"
[train]
steps = 1
batch = 2
"""


def write_recipe(root: Path, layout: str = "", **data: object) -> Path:
    """A recipe of five bands and the classes of drawn scenes; `layout` holds further options, `data` further keys."""
    facts: dict[str, object] = {"channels": 5, "mean": 0.0, "std": 1.0, "ignore_index": 0, "workers": 0, "crop": 16}
    facts |= {"root": root.as_posix()} | data
    lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    classes = [f"{name} = {value}" for value, name in enumerate(CLASSES, 1)]
    path = root / "recipe.toml"
    path.write_text(
        "\n".join(["[data]", f'layout = {{ name = "rasters"{layout} }}', *lines, "[data.classes]", *classes, REST])
    )
    return path
