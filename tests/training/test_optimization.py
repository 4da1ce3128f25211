"""Learning rate and parameter groups, against closed forms."""

import math

import pytest
import torch
from timm.optim import param_groups_layer_decay
from tiny_network import TinyNetwork

from farcluss.errors import RecipeError
from farcluss.networks.dpt import dpt
from farcluss.recipes.training import Loss, Train
from farcluss.training.optimization import build_optimizer, lr_factor, ramp_factor, set_learning_rate


def test_poly_equals_torch():
    train = Train(steps=40, power=0.9)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=0.9)
    for step in range(40):
        assert lr_factor(step, 40, train) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_cosine_and_warm_up():
    train = Train(steps=100, schedule="cosine", lr_warmup_steps=10)
    assert lr_factor(0, 100, train) == pytest.approx(0.1)
    assert lr_factor(4, 100, train) == pytest.approx(0.5 * (1 + math.cos(0.04 * math.pi)) / 2)
    assert lr_factor(50, 100, train) == pytest.approx(0.5)
    assert lr_factor(100, 100, train) == pytest.approx(0)


def test_a_constant_rate_after_its_warm_up():
    train = Train(steps=100, schedule="constant", lr_warmup_steps=10)
    assert [lr_factor(step, 100, train) for step in (0, 4, 9, 50, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("ramp", "middle"), [("linear", 0.25), ("sigmoid", math.exp(-5 * 0.75**2)), ("cosine", (1 - math.sqrt(0.5)) / 2)]
)
def test_weights_rise_after_the_warm_up(ramp, middle):
    loss = Loss(warmup_steps=3, ramp_steps=8, ramp=ramp)
    assert ramp_factor(3 + 1, loss) == pytest.approx(middle)  # the second of eight steps
    assert ramp_factor(3 + 7, loss) == ramp_factor(1000, loss) == pytest.approx(1)
    assert ramp_factor(0, Loss(ramp=ramp)) == 1


def test_nesterov_is_that_of_torch():
    network, other = (TinyNetwork(3, 5, 0, False) for _ in range(2))
    other.load_state_dict(network.state_dict())
    ours = build_optimizer(network, Train(steps=1, lr=0.1, head_lr=1.0, weight_decay=0.01, nesterov=True))
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    images = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for each, optimizer in ((network, ours), (other, theirs)):
            optimizer.zero_grad()
            each(images).logits.square().sum().backward()
            optimizer.step()
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    with pytest.raises(ValueError, match="nesterov needs"):
        Train(steps=1, nesterov=True, optimizer="adamw")


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_head_and_norms_have_groups_of_their_own(decay_norms, optimizer):
    network = TinyNetwork(3, 5, 4, False)
    train = Train(steps=1, lr=0.1, head_lr=10.0, weight_decay=0.01, decay_norms=decay_norms, optimizer=optimizer)
    groups = build_optimizer(network, train).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found["body.0.weight"] == (pytest.approx(0.1), 0.01)
    assert found["classifier.weight"] == (pytest.approx(1.0), 0.01)
    assert found["classifier.bias"] == (pytest.approx(1.0), 0.01 if decay_norms else 0.0)
    assert set(found) == set(names.values())


def test_setting_the_rate_keeps_the_ratio():
    optimizer = build_optimizer(TinyNetwork(3, 5, 0, False), Train(steps=1, lr=0.1, head_lr=10.0))
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(0.05)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize("decay", [1.0, 0.65])
@pytest.mark.parametrize("encoder", ["test_vit", "test_vit3"])
def test_rates_and_decays_of_a_transformer_are_those_of_timm(encoder, decay):
    """Tokens, positions, norms and biases do not decay; each block learns more slowly than the next one."""
    network = dpt(3, 5, 0, False, encoder=encoder)
    train = Train(
        steps=1, optimizer="adamw", lr=0.1, head_lr=4.0, weight_decay=0.05, decay_norms=False, layer_decay=decay
    )
    found = {id(p): group for group in build_optimizer(network, train).param_groups for p in group["params"]}
    names = {id(parameter): name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert found.keys() == names.keys()
    wanted = param_groups_layer_decay(network.encoder, 0.05, network.encoder.no_weight_decay(), layer_decay=decay)
    seen = set()
    for group in wanted:
        for parameter in group["params"]:
            if parameter.requires_grad:
                mine = found[id(parameter)]
                assert mine["lr"] == pytest.approx(0.1 * group["lr_scale"]) == mine["peak_lr"]
                assert mine["weight_decay"] == group["weight_decay"]
                seen.add(id(parameter))
    heads = {key for key, name in names.items() if not name.startswith("encoder.")}
    assert seen | heads == names.keys() and not seen & heads
    assert all(found[key]["lr"] == pytest.approx(0.4) for key in heads)
    if decay < 1:
        assert len({group["lr_scale"] for group in wanted}) == len(network.encoder.blocks) + 1


def test_betas_reach_the_optimizer():
    train = Train(steps=1, optimizer="adamw", betas=(0.8, 0.95))
    assert build_optimizer(TinyNetwork(3, 5, 0, False), train).defaults["betas"] == (0.8, 0.95)
    with pytest.raises(ValueError, match="less than 1"):
        Train(steps=1, betas=(0.9, 1.0))


def test_a_network_that_does_not_tell_its_depths_is_refused():
    with pytest.raises(
        RecipeError, match=r"train.layer_decay = 0.7: TinyNetwork does not tell .*\nSet train.layer_decay"
    ):
        build_optimizer(TinyNetwork(3, 5, 0, False), Train(steps=1, layer_decay=0.7))


@pytest.mark.parametrize("frozen", [True, 3])
def test_what_is_frozen_is_not_in_the_optimizer(frozen):
    network = dpt(3, 5, 0, False, encoder="test_vit", frozen=frozen)
    held = {id(p) for group in build_optimizer(network, Train(steps=1)).param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters() if p.requires_grad}
    assert not held & {id(p) for p in network.encoder.blocks[:3].parameters()}
