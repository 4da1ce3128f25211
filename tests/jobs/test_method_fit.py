"""`check` says which stage of a method does not fit the images or the network, before anything is trained."""

import numpy as np
import pytest
from commandline import cli
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss.data.base import Item, Sample


class Pointless(TinyNetwork):
    """A network that does not let its features be changed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        del self.points


class Noise:
    """Images of noise in [0, 1], of any channels and axes."""

    classes = ("low", "high")
    palette = ((0, 0, 0), (255, 255, 255))
    value_range = (0.0, 1.0)

    def __init__(self, data, *, channels: int, axes: int = 2):
        self.channels, self.extent = channels, (16,) * axes

    def items(self, split):
        return [self.parse(f"{split}/{number}") for number in range(12)]

    def parse(self, line):
        return Item(line, line, line)

    def size(self, item):
        return self.extent

    def read(self, item, window=None):
        rng = np.random.default_rng(len(item.image))
        image = rng.random((self.channels, *self.extent)).astype(np.float32)
        return Sample(image, (image[0] > 0.5).astype(np.uint8))


def noise(channels, axes):
    return [f"data.layout={{ name = \'noise\', channels = {channels}, axes = {axes} }}", f"network.axes={axes}",
            f"data.channels={channels}", "data.crop=16", "data.scale=[1, 1]", "data.val=none"]  # fmt: skip


ANY = 'Set stages.augment = "intensity", which takes any channels.'
NEEDS = "needs RGB images (B, 3, H, W), not"
MESSAGES = {
    "point": (
        "Plugin perturb/feature-dropout changes features at 'encoder', a point that network pointless does not have; "
        "it has none.\nTake a network that has it (of images: deeplabv3plus, smp), or a method without stages.perturb."
    ),
    "channels": f"augment/random-operations {NEEDS} (4, 13, 16, 16).\n{ANY}",
    "axes": f"augment/random-operations {NEEDS} (4, 3, 16, 16, 16).\n{ANY}",
    "agreement": f"augment/by-agreement {NEEDS} (4, 1, 16, 16).\nTake another method, such as fixmatch.",
    "small": (
        "augment/random-operations blurs 6 pixels to each side, too far in crops of 6 x 6.\n"
        "Raise data.crop to 7 or more."
    ),
    "views": "perturb/complementary-dropout needs two strong views, not 3.\nSet stages.augment.views = 2.",
    "shares": (
        "loss.view_shares has 3 numbers, but stages.augment makes 1 view and stages.perturb 1 more.\n"
        "Set stages.augment.views = 2, or give one number for each view."
    ),
}
GIVEN = {
    "point": ("unimatch", ["network.name=pointless"]),
    "channels": ("augseg", noise(13, 2)),
    "axes": ("augseg", noise(3, 3)),
    "agreement": ("imas", noise(1, 2)),
    "small": ("augseg", ["data.crop=6"]),
    "views": ("unimatch_v2", ["stages.augment.views=3"]),
    "shares": ("unimatch", ["stages.augment.views=1"]),
}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("name", GIVEN)
def test_what_does_not_fit_is_refused_by_name(tmp_path, name, command):
    method, settings = GIVEN[name]
    (tmp_path / "recipe.toml").write_text(tiny_recipe(augment='"photometric"'))
    words = ["--with", method, *(word for text in settings for word in ("--set", text))]
    words += ["-o", tmp_path / "run"] if command == "run" else []
    with (
        registered("network", "tiny", TinyNetwork),
        registered("network", "pointless", Pointless),
        registered("dataset", "noise", Noise),
    ):
        result = cli(command, tmp_path / "recipe.toml", *words)
    assert (result.code, result.err.strip()) == (1, f"Error: {MESSAGES[name]}")
