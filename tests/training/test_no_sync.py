"""Between two logged steps the host never asks for a value that the device has computed."""

from typing import Any

import pytest
import torch
from registered import registered
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from farcluss import train
from farcluss.recipes.reading import load_recipe
from farcluss.stages.base import PixelWeight
from farcluss.training import engine

MOVES = 'stages.augment={ name = "photometric", views = 2, degrees = 20.0, zoom = [0.8, 1.2] }'
PULL = 'stages.contrast={ name = "prototype", dim = 8, confidence = 0.1, detach = false, repulsion = 0.5 }'
CUT = 'stages.mix={ name = "cutmix", p = 1.0, partner = "random", boxes = 3 }'
SHARES = ("loss.view_shares=[1.0]", "loss.divisor=kept")
READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "bincount", "_unique2", "item"}
"""Operations whose result the host needs before it can go on."""


class Device(TorchDispatchMode):
    """Plays a device: remembers what has been computed from networks and images, and notes when the host reads it.

    Numbers that are drawn on the host, such as the parameters of an augmentation, may be read there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on, self.reads = True, []
        self.known: dict[int, Tensor] = {}  # by storage; the tensor keeps the storage's address from being used again

    def put(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                self.known[tensor.untyped_storage()._cdata] = tensor

    def holds(self, values: Any) -> bool:
        return any(isinstance(v, Tensor) and v.untyped_storage()._cdata in self.known for v in tree_leaves(values))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::").rstrip("_") if function.namespace == "aten" else ""
        here = self.holds((args, kwargs))
        by_mask = name.startswith("index") and any(
            isinstance(v, Tensor) and v.dtype == torch.bool and self.holds(v) for v in tree_leaves(args[1:2])
        )
        if self.on and here and (name in {n.rstrip("_") for n in READS} or by_mask):
            self.reads.append(name)
        result = function(*args, **kwargs)
        if here:
            self.put(result)
            self.put([a for a, s in zip(args, function._schema.arguments, strict=False) if s.alias_info])
        return result


@pytest.fixture
def device(monkeypatch):
    """A device that every step of a run computes on, until the first step that is logged."""
    device = Device()
    original = engine.run_steps, engine.one_step, engine.log_step

    def run_steps(run, display):
        device.put([*run.networks["student"].state_dict().values(), *run.networks["teacher"].state_dict().values()])
        with device:
            original[0](run, display)

    def one_step(run, host, semi, logging):
        device.put([host.images, host.masks, host.valid])
        return original[1](run, host, semi, logging)

    def log_step(*arguments):
        device.on = False
        original[2](*arguments)

    for name, function in (("run_steps", run_steps), ("one_step", one_step), ("log_step", log_step)):
        monkeypatch.setattr(engine, name, function)
    return device


def run(recipe, tmp_path, *settings):
    steps = ("train.steps=2", "train.log_every=2", "data.val=none", "network.output_stride=16")
    return train(load_recipe(recipe, (), (*steps, *settings)), tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (MOVES, PULL, CUT, "loss.supervised=ohem", "loss.ohem_min_kept=9", "train.clip=0.1"),
        (MOVES, PULL, "loss.supervised=ohem", "train.accumulate=2", "train.optimizer=adamw", "loss.warmup_steps=1"),
        ("stages.contrast=none", "stages.weight=threshold", "stages.pseudo_label=hard", "stages.mix=classmix", *SHARES),
        ("loss.supervised=dice-cross-entropy", "loss.unsupervised_dice=1.0"),
        ("train.split_backward=true", PULL.replace(" }", ", include_labeled = true }")),
    ],
    ids=["defaults", "everything", "micro-batches", "fixmatch", "dice", "apart"],
)
def test_nothing_is_read_between_logged_steps(tiny_recipe, tmp_path, device, settings):
    run(tiny_recipe, tmp_path, *settings)
    assert len(device.known) > 1000  # it has seen the steps
    assert device.reads == []


OTHERS = ("cutmix_seg", "classmix", "softmatch", "freematch", "cw_bass", "u2pl_loss", "unimatch", "unimatch_v2")


@pytest.mark.parametrize(
    "method", ["daw", "augseg", "imas", *(pytest.param(m, marks=pytest.mark.slow) for m in OTHERS)]
)
def test_nor_by_the_methods_of_the_field(tiny_recipe, tmp_path, device, method):
    settings = ("train.steps=2", "train.log_every=2", "data.val=none", "network.output_stride=16", "train.accumulate=2")
    train(load_recipe(tiny_recipe, (method,), settings), tmp_path / "run")
    assert len(device.known) > 1000
    assert device.reads == []


class Curious(PixelWeight):
    """A stage that asks the host to look."""

    def pixels(self, labels, summed):
        sure = labels.confidence
        if sure.mean() > 2 or len(sure[sure > 2]):
            return sure
        return torch.ones_like(sure)


def test_a_stage_that_reads_is_seen(tiny_recipe, tmp_path, device):
    with registered("weight", "curious", Curious):
        run(tiny_recipe, tmp_path, "stages.weight=curious")
    assert {"_local_scalar_dense", "index"} <= set(device.reads)
