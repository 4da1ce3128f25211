"""Perturbed features: what is drawn, and that networks apply it to the right images alone."""

import numpy as np
import positions
import pytest
import torch
from small_learner import make, make_batch

from farcluss.errors import PluginError
from farcluss.learning.batches import split
from farcluss.learning.build import check_point
from farcluss.networks.base import Perturbation, perturbed
from farcluss.recipes.training import Loss
from farcluss.stages.base import PixelWeight, View
from farcluss.stages.perturb import ComplementaryDropout, FeatureDropout, NoPerturb
from farcluss.stages.weight import Threshold
from farcluss.testing import PerturbTester

CHANNELS = (40, 60)


class TestNoPerturb(PerturbTester):
    stage = NoPerturb


class TestFeatureDropout(PerturbTester):
    stage = FeatureDropout
    options = {"p": 0.3, "point": "fused"}


class TestComplementaryDropout(PerturbTester):
    stage = ComplementaryDropout


def drawn(stage, batch=4, views=2):
    """The parameters that a stage draws for equal views of some images; of volumes, as the size does not matter."""
    torch.manual_seed(0)
    images, labels = positions.images(batch, (2, 3, 4)), positions.labels(batch, (2, 3, 4))
    made = stage.draw((View(images, labels),) * views, positions.scene(images, labels), CHANNELS)
    return made, [view.drawn for view in made if view.drawn is not None]


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_feature_dropout_is_that_of_torch(p):
    """Values are 0 or 1 / (1 - p), a share p of them 0, and independent between images and channels."""
    views, (factors,) = drawn(FeatureDropout(p=p), batch=200)
    assert len(views) == 3 and views[0].drawn is None and factors.shape == (200, sum(CHANNELS))
    assert torch.equal(views[2].images, positions.images(200, (2, 3, 4)))  # the weak view
    values = {0.0: {1.0}, 0.3: {0.0, 1 / 0.7}, 1.0: {0.0}}[p]
    assert set(factors.unique().tolist()) == set(torch.tensor(sorted(values)).tolist())
    assert (factors == 0).double().mean().item() == pytest.approx(p, abs=0.01)
    assert p != 0.3 or (len(factors.unique(dim=0)) == 200 and len(factors.unique(dim=1).T) == sum(CHANNELS))


def test_maps_are_dropped_whole():
    """Each map by its own factors."""
    stage = FeatureDropout()
    _, (factors,) = drawn(stage)
    maps = tuple(torch.rand(4, each, *size) + 1 for each, size in zip(CHANNELS, ((6, 5, 4), (3, 2, 1)), strict=True))
    changed = stage(maps, factors)
    for before, after, factor in zip(maps, changed, np.split(factors.numpy(), [CHANNELS[0]], 1), strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy() * factor[..., None, None, None])


@pytest.mark.parametrize(("unchanged", "stay"), [(0.5, 2), (0.0, 0), (1.0, 5), (0.7, 3)])
def test_complementary_dropout(unchanged, stay):
    """Published numbers: both factors add up to 2, and their product is 0, or 1 in images that stay, half of them."""
    _, (first, second) = drawn(ComplementaryDropout(unchanged=unchanged), batch=5)
    assert (first + second == 2).all() and first.shape == (5, max(CHANNELS))
    products = (first * second).sum(1)
    assert sorted(products.tolist()) == [0.0] * (5 - stay) + [float(max(CHANNELS))] * stay
    assert stay == 5 or set(first[products == 0].unique().tolist()) == {0.0, 2.0}


def test_maps_of_equal_width_lose_the_same_channels():
    stage = ComplementaryDropout(unchanged=0.0)
    _, (first, _) = drawn(stage)
    ones = (torch.ones(4, 60, 2, 2), torch.ones(4, 60, 3, 3), torch.ones(4, 40, 1, 1))
    wide, again, narrow = (each.amax((2, 3)) for each in stage(ones, first))
    assert torch.equal(wide, again) and torch.equal(narrow, wide[:, :40])


def test_other_numbers_of_views_are_refused():
    with pytest.raises(PluginError, match=r"needs two strong views, not 3\.\nSet stages.augment.views = 2"):
        drawn(ComplementaryDropout(), views=3)


def test_only_the_given_rows_change():
    maps = (torch.rand(7, 2, 3), torch.rand(7, 4))
    what = Perturbation(lambda parts, by: tuple(part + by.view(-1, *[1] * (part.dim() - 1)) for part in parts),
                        "encoder", (2, 1, 3, 1), (None, torch.tensor([5.0]), None, torch.tensor([7.0])))  # fmt: skip
    changed = perturbed(maps, "encoder", what)
    added = torch.tensor([0.0, 0, 5, 0, 0, 0, 7])
    for before, after in zip(maps, changed, strict=True):
        assert torch.equal(after, before + added.view(-1, *[1] * (before.dim() - 1)))
    assert perturbed(maps, "fused", what) is maps and perturbed(maps, "encoder", None) is maps


class Doubling(FeatureDropout):
    """Multiplies the features of the weak view by 2 and 3 in turns."""

    def draw(self, views, scene, channels):
        assert channels == (8,)  # of the network
        rows = 2.0 + torch.arange(len(scene.weak.images)) % 2
        return (*views, scene.weak._replace(drawn=rows.view(-1, 1).expand(-1, *channels)))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_a_perturbed_view_in_the_loss(axes, apart):
    """Its loss is that of a network whose features are multiplied, in one micro-batch or several."""
    loss = Loss(view_shares=[0.0, 1.0], contrastive=0.0)
    learner, batch = make(loss, axes, perturb=Doubling()), make_batch(axes)
    views, statistics = learner.pseudo_label(batch)
    totals = learner.totals(statistics, views)
    whole = learner.losses(batch, views, totals, 1.0)
    parts = [learner.losses(*part, totals, 1.0) for part in split(batch, views, 2, apart)]
    plain = make(loss, axes)
    hook = plain.student.body.register_forward_hook(
        lambda module, inputs, features: features * torch.tensor([1.0, 1, 1, 1, 2, 3]).view(-1, 1, *[1] * axes)
    )
    views = tuple(view._replace(drawn=None) for view in views)
    wanted = plain.losses(batch, views, totals, 1.0)
    hook.remove()
    unchanged = plain.losses(batch, views, totals, 1.0)
    for name in ("supervised", "unsupervised"):
        assert whole[name].item() == pytest.approx(wanted[name].item(), rel=1e-12)
        assert sum(part[name] for part in parts).item() == pytest.approx(wanted[name].item(), rel=1e-7)
    assert abs(unchanged["unsupervised"] - wanted["unsupervised"]) > 1e-3


@pytest.mark.parametrize("name", ["unsupervised", "unsupervised_dice"])
def test_a_share_of_an_image_is_its_factor(name):
    """In the mean over all pixels, and in the mean over all images."""
    learner, batch = make(Loss(unsupervised_dice=1.0)), make_batch()
    views, statistics = learner.pseudo_label(batch)
    found = []
    for share in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.25]):
        views = tuple(view._replace(share=torch.tensor(share)) for view in views)
        found.append(learner.losses(batch, views, learner.totals(statistics, views), 1.0)[name].item())
    both, first, second, mixed = found
    assert both == pytest.approx(first + second, rel=1e-6) and min(first, second) > 0
    assert mixed == pytest.approx(0.5 * first + 0.25 * second, rel=1e-6)


def test_a_network_without_the_point_is_refused_by_name():
    stages = make(perturb=FeatureDropout(), weight=Threshold()).stages
    with pytest.raises(PluginError) as caught:
        check_point(stages, "mine", torch.nn.Linear(1, 1))
    assert str(caught.value) == (
        "Plugin perturb/FeatureDropout changes features at 'encoder', a point that network mine does not have; it has "
        "none.\nTake a network that has it (of images: deeplabv3plus, smp), or a method without stages.perturb."
    )
    check_point(make().stages, "mine", torch.nn.Linear(1, 1))
    assert isinstance(stages.weight, PixelWeight)
