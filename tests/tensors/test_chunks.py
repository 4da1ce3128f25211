"""Cutting tensors into chunks: every pixel once, no chunk too large, and no chunk a copy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.stages.pseudo_label import top_classes
from farcluss.tensors import chunks
from farcluss.tensors.chunks import boxes, by_chunks
from farcluss.tensors.entropy import normalized_entropy

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@settings(deadline=None, derandomize=True)
@given(SHAPES, st.integers(1, 7), st.integers(1, 300))
def test_boxes_cover_every_pixel_once_within_the_bound(space, channels, values):
    tensor = torch.zeros(3, channels, *space)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(chunks, "CPU_VALUES", values)
        for box in boxes(tensor):
            part = tensor[box]
            assert part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            assert 0 < part.numel() <= max(values, channels) or 0 in tensor.shape
            part += 1
    assert (tensor == 1).all()


BOUNDS = [((6, 5), 10**6, 1), ((6, 5), 120, 2), ((6, 5), 30, 8), ((6, 5), 14, 24), ((7,), 6, 12), ((2, 3, 4), 24, 8)]


@pytest.mark.parametrize(("space", "values", "count"), BOUNDS)
def test_chunks_are_as_large_as_they_may_be(monkeypatch, space, values, count):
    monkeypatch.setattr(chunks, "CPU_VALUES", values)
    assert len(list(boxes(torch.zeros(4, 2, *space)))) == count


def test_results_are_put_together(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", 12)
    one, other = torch.rand(2, 3, 5, 4), torch.rand(2, 1, 5, 4)
    seen = []

    def function(one, other):
        seen.append(one.shape)
        return one * other, (one > other).sum(1, keepdim=True)

    for found, wanted in zip(by_chunks(function, one, other), (one * other, (one > other).sum(1, True)), strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    assert len(seen) == 10 and set(seen) == {(1, 3, 1, 4)}


def test_no_images_give_results_of_no_images():
    (found,) = by_chunks(lambda chunk: (chunk[:, :2],), torch.rand(0, 3, 5))
    assert found.shape == (0, 2, 5)


@pytest.mark.parametrize("space", [(7,), (5, 3), (3, 2, 5)])
def test_stages_give_the_same_in_chunks(monkeypatch, space):
    draw = torch.Generator().manual_seed(0)
    probs = torch.randint(0, 4, (3, 5, *space), generator=draw).float().softmax(1)  # with many ties
    whole = *top_classes(probs, 3), normalized_entropy(probs)
    monkeypatch.setattr(chunks, "CPU_VALUES", 20)
    for found, wanted in zip((*top_classes(probs, 3), normalized_entropy(probs)), whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
