"""Losses of logits that are upsampled in bands: the same numbers and gradients, in a fraction of the memory."""

import copy
import json

import memory
import pytest
import torch

from farcluss import load_recipe, train
from farcluss.data.base import IGNORE
from farcluss.errors import RecipeError
from farcluss.learning.batches import Batch
from farcluss.learning.contracts import MANY, Stages, in_bands
from farcluss.learning.learner import Learner
from farcluss.learning.losses import Target, divergences, pixel_cross_entropy, true_target
from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.networks.dpt import dpt
from farcluss.networks.normalize import Normalize
from farcluss.recipes.training import Loss
from farcluss.stages.augment import Identity
from farcluss.stages.contrast import Prototype
from farcluss.stages.mix import CutMix
from farcluss.stages.perturb import NoPerturb
from farcluss.stages.pseudo_label import Fuzzy
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import EntropyWeight
from farcluss.tensors import chunks
from farcluss.tensors.upsampling import Upsampling, upsampled

HOW = Upsampling((33, 49), (30, 45), True)


def drawn(images=3, classes=7, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, classes, 9, 13, dtype=dtype, generator=rng)
    masks = torch.randint(0, classes, (images, *HOW.size), generator=rng).to(torch.uint8)
    masks[0, :4] = IGNORE
    values = torch.rand(1, 2, *HOW.size, dtype=dtype, generator=rng)
    kept = torch.randint(0, classes, (1, 2, *HOW.size), generator=rng)
    weight = torch.rand(1, 1, *HOW.size, dtype=dtype, generator=rng)
    soft = Target(values / values.sum(1, keepdim=True), kept, weight, weight > 0.2)
    return logits, [true_target(masks[:2]), soft], masks


@pytest.mark.parametrize("kind", ["kl", "squared", "cross-entropy"])
@pytest.mark.parametrize("values", [1, 700, 10**6])
def test_sums_and_gradients_are_those_of_the_whole(kind, values, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", values)
    logits, targets, _ = drawn()
    scale = torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = []
    for how in (None, HOW):
        leaf = logits.clone().requires_grad_()
        sums = divergences(leaf if how else upsampled(leaf, HOW), targets, ["kl", kind], how)
        (sums * scale).sum().backward()
        found.append((sums.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


def test_pixel_losses_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", 700)
    logits, _, masks = drawn()
    found, wanted = pixel_cross_entropy(logits, masks, HOW), pixel_cross_entropy(upsampled(logits, HOW), masks)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_half_precision_is_computed_in_float32():
    logits, targets, _ = drawn(dtype=torch.float32)
    leaf = logits.bfloat16().requires_grad_()
    sums = divergences(leaf, targets, upsampling=HOW)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, divergences(upsampled(leaf.float(), HOW), targets), rtol=1e-5, atol=1e-3)
    sums.sum().backward()
    assert leaf.grad.dtype == torch.bfloat16 and leaf.grad.isfinite().all()


def test_what_is_invalid_may_hold_anything():
    logits, targets, _ = drawn()
    broken = targets[1]._replace(values=torch.where(targets[1].valid, targets[1].values, torch.nan))
    for kind in ("kl", "squared"):
        leaf, other = (logits.clone().requires_grad_() for _ in range(2))
        divergences(leaf, targets, ["kl", kind], HOW).sum().backward()
        divergences(other, [targets[0], broken], ["kl", kind], HOW).sum().backward()
        torch.testing.assert_close(leaf.grad, other.grad)


def test_memory_of_the_pixels_is_not_needed():
    """150 classes at 201 x 201: two tensors of 24 MB less than with logits of that size and their gradient."""
    how, classes = Upsampling((201, 201), (201, 201), True), 150
    rng = torch.Generator().manual_seed(0)
    masks = torch.randint(0, classes, (1, 201, 201), generator=rng)
    coarse = torch.randn(1, classes, 51, 51, generator=rng)
    peaks = {}
    for name, upsampling in (("whole", None), ("bands", how)):
        leaf = coarse.clone().requires_grad_()

        def step(leaf=leaf, upsampling=upsampling):
            logits = leaf if upsampling else upsampled(leaf, how)
            divergences(logits, [true_target(masks)], upsampling=upsampling).sum().backward()

        peaks[name], _ = memory.peak(step)
    assert peaks["bands"] < 0.25 * peaks["whole"], peaks


NETWORKS = {
    "deeplabv3plus": lambda: deeplabv3plus(
        3, 5, 4, False, encoder="test_resnet", aspp_channels=8, head_channels=8, low_level_channels=8
    ),
    "dpt": lambda: dpt(3, 5, 4, False, encoder="test_vit"),
    "dpt, resized": lambda: dpt(3, 5, 4, False, encoder="test_vit", fit="resize"),
}


@pytest.mark.parametrize("size", [(33, 33), (30, 45), (48, 64)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_logits_before_their_upsampling(name, size):
    torch.manual_seed(0)
    network, images = NETWORKS[name]().eval(), torch.randn(2, 3, *size)
    plain, coarse = network(images), network(images, coarse=True)
    assert torch.equal(upsampled(coarse.logits, coarse.upsampling), plain.logits)
    assert torch.equal(coarse.embeddings, plain.embeddings)
    if name == "deeplabv3plus" or size == (48, 64):
        assert coarse.logits.shape[2] < size[0] and coarse.upsampling.size == size


def learner(loss, network, **stages):
    chosen = {
        "augment": Identity(), "mix": CutMix(p=1.0), "perturb": NoPerturb(), "pseudo_label": Fuzzy(top_k=3),
        "weight": EntropyWeight(), "rebalance": MedianFrequency(max_weight=10.0),
        "contrast": Prototype(dim=4, confidence=0.1),
    } | stages  # fmt: skip
    torch.manual_seed(0)
    student = network().double().eval()  # norms of one batch, so that only the upsampling differs
    teacher = copy.deepcopy(student).eval()
    return Learner(student, teacher, Stages(**chosen), Normalize([0.5] * 3, [0.3] * 3).double(), loss, 5)


@pytest.mark.parametrize("supervised", ["cross-entropy", "ohem"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", ["deeplabv3plus", "dpt"])
def test_a_whole_step_is_the_same(name, supervised, micro_batches):
    rng = torch.Generator().manual_seed(2)
    images, unlabeled = (torch.rand(2, 3, 30, 45, generator=rng).double() for _ in range(2))
    masks = torch.randint(0, 5, (2, 30, 45), generator=rng).to(torch.uint8)
    batch = Batch(images, masks, unlabeled, torch.rand(2, 30, 45, generator=rng) > 0.1, masks)
    found = []
    for upsampling in ("whole", "bands"):
        own = learner(Loss(upsampling=upsampling, supervised=supervised, ohem_min_kept=50), NETWORKS[name])
        views, statistics = own.pseudo_label(batch)
        totals = own.totals(statistics, views)
        passes = own.whole_batch([own.first_pass(batch, views, totals)]) if micro_batches > 1 else [None]
        losses = own.losses(batch, views, totals, 1.0, passes[0])
        losses["total"].backward()
        gradients = {key: p.grad for key, p in own.student.named_parameters() if p.grad is not None}
        found.append(({key: float(value.detach()) for key, value in losses.items() if value.dim() == 0}, gradients))
    (one, first), (other, second) = found
    assert one == pytest.approx(other, rel=1e-9, abs=1e-12) and first.keys() == second.keys()
    for key, gradient in first.items():
        torch.testing.assert_close(second[key], gradient, rtol=1e-6, atol=1e-9, msg=key)


def test_when_it_is_done():
    able, unable = NETWORKS["deeplabv3plus"](), torch.nn.Conv2d(3, 2, 1)
    dice = Loss(supervised="dice-cross-entropy")
    assert [in_bands(Loss(), classes, able) for classes in (2, MANY - 1, MANY, 150)] == [False, False, True, True]
    assert not in_bands(Loss(), 150, unable) and not in_bands(dice, 150, able)
    assert not in_bands(Loss(upsampling="whole"), 150, able) and in_bands(Loss(upsampling="bands"), 2, able)
    for loss, network, why in ((dice, able, "Dice"), (Loss(), unable, "image's size alone"),
                               (Loss(unsupervised_dice=1), able, "Dice")):  # fmt: skip
        with pytest.raises(RecipeError, match=why):
            in_bands(loss.model_copy(update={"upsampling": "bands"}), 5, network)


def test_a_run_in_bands_learns_the_same(tiny_recipe, tmp_path):
    """Two steps from the recipe: losses agree to rounding."""
    totals = []
    for upsampling in ("whole", "bands"):
        settings = [f"loss.upsampling={upsampling}", "loss.warmup_steps=0", "data.val=none"]
        folder = train(load_recipe(tiny_recipe, settings=settings), tmp_path / upsampling)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        totals.append([line["total"] for line in lines if line["kind"] == "train"])
    assert len(totals[0]) == 2 and totals[0] == pytest.approx(totals[1], rel=1e-4)
