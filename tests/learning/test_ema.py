"""Eq. 1: the teacher is a moving average of the student. Buffers that are joined stay what they are."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from farcluss.learning.averaging import ema_decay, ema_update, join_buffers


def network(seed):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(10 * seed + 3)
    made = nn.Sequential(nn.Conv2d(2, 3, 1), norm)
    made.register_buffer("seen", torch.tensor([seed % 2 == 0, True]))
    return made


def arrays(module):
    return {name: tensor.detach().clone().double().numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_floats_are_averaged_and_integers_copied(decay):
    teacher, student = network(1), network(2)
    before, target = arrays(teacher), arrays(student)
    places = {name: tensor.data_ptr() for name, tensor in teacher.state_dict().items()}
    ema_update(teacher, student, 1 - decay)
    for name, tensor in teacher.state_dict().items():
        mixed = decay * before[name] + (1 - decay) * target[name]
        expected = mixed if tensor.is_floating_point() else target[name]
        np.testing.assert_allclose(tensor.detach().double(), expected, rtol=1e-5, atol=1e-6)
        assert tensor.data_ptr() == places[name]


def test_a_rate_on_the_device_does_what_a_number_does():
    one, other, student = network(1), network(1), network(2)
    ema_update(one, student, 0.3)
    ema_update(other, student, torch.tensor(0.3))
    for name, array in arrays(one).items():
        np.testing.assert_allclose(arrays(other)[name], array, rtol=1e-6)


def test_student_is_left_alone_and_no_graph_is_made():
    teacher, student = network(1), network(2)
    teacher.requires_grad_(False)
    before = arrays(student)
    ema_update(teacher, student, 1 - 0.9)
    for name, array in arrays(student).items():
        np.testing.assert_array_equal(array, before[name])
    assert all(p.grad_fn is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.is_leaf and p.requires_grad for p in student.parameters())


def test_what_does_not_learn_is_left_alone():
    teacher, student = network(1), network(1)
    student[0].weight.requires_grad_(False)
    teacher[0].weight.data += 1  # which no update would leave there
    before = arrays(teacher)
    student[0].bias.data += 1
    ema_update(teacher, student, 0.5)
    np.testing.assert_array_equal(arrays(teacher)["0.weight"], before["0.weight"])
    np.testing.assert_allclose(arrays(teacher)["0.bias"], before["0.bias"] + 0.5, rtol=1e-6)


def test_many_updates_follow_the_closed_form():
    teacher, student = network(1), network(2)
    start, target, decay = arrays(teacher), arrays(student), 0.97
    for _ in range(50):
        ema_update(teacher, student, 1 - decay)
    for name, parameter in teacher.named_parameters():
        expected = target[name] + decay**50 * (start[name] - target[name])
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_student_stays_one():
    student = network(2)
    teacher = copy.deepcopy(student)
    ema_update(teacher, student, 1 - 0.999)
    for name, array in arrays(teacher).items():
        np.testing.assert_allclose(array, arrays(student)[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(0, 0.999, 0), (1, 0.999, 1 / 2), (2, 0.999, 2 / 3), (998, 0.999, 998 / 999), (999, 0.999, 0.999),
     (10**6, 0.999, 0.999), (10, 0.5, 0.5), (10, 0.0, 0.0)],
)  # fmt: skip
def test_decay_ramps_up(step, decay, expected):
    np.testing.assert_allclose(ema_decay(step, decay), expected, rtol=1e-12)


def test_without_a_ramp_the_decay_is_constant():
    assert [ema_decay(step, 0.99, ramp=False) for step in (0, 1, 500)] == [0.99] * 3


def test_ramped_average_of_constant_decay_1_is_the_plain_mean():
    teacher, seen = nn.Linear(1, 1), []
    for step in range(6):
        student = nn.Linear(1, 1)
        seen.append(student.weight.item())
        ema_update(teacher, student, 1 - ema_decay(step, 1.0))
    np.testing.assert_allclose(teacher.weight.item(), np.mean(seen), rtol=1e-5, atol=1e-6)


class Indexed(nn.Module):
    """Buffers that autograd saves, before, between and behind norms: indices, a scale, a mask."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.table, self.linear = nn.Parameter(torch.randn(9)), nn.Linear(4, 4)
        self.register_buffer("index", torch.tensor([0, 1, 2, 3]))
        self.register_buffer("scale", torch.rand(4) + 0.5)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, values):
        values = self.first(self.linear(values)) * self.table[self.index] * self.scale
        return self.second(torch.where(self.mask, values, values * values))


@pytest.mark.parametrize("forwards", [1, 2])
def test_joined_buffers_leave_the_gradient_alone(forwards):
    """Of any network: what a norm changes in its forward is nothing that another module has saved."""
    torch.manual_seed(0)
    plain = Indexed()
    joined = copy.deepcopy(plain)
    flat = join_buffers(joined)
    values = torch.randn(forwards, 5, 4)
    for net in (plain, joined):
        sum(net(each).square().sum() for each in values).backward()
    for one, other in zip(plain.parameters(), joined.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    torch.testing.assert_close(joined.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert sum(tensor.numel() for tensor in flat) == sum(buffer.numel() for buffer in plain.buffers())


def test_what_is_written_to_joined_buffers_is_in_the_network():
    net = Indexed()
    flat = join_buffers(net)
    assert len(flat) == 2 + 3  # of the norms by dtype, and the others
    for tensor in flat:
        tensor.zero_()
    assert not any(buffer.any() for buffer in net.buffers())
