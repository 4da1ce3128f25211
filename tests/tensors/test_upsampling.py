"""Logits that are upsampled band by band are those of PyTorch's own interpolation at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from farcluss.tensors import chunks
from farcluss.tensors.upsampling import Upsampling, band, bands, upsampled

sides = st.integers(1, 40)


def whole(logits, how):
    grown = interpolate(logits, size=how.full, mode="bilinear", align_corners=how.align_corners)
    return grown[..., : how.size[0], : how.size[1]]


def by_bands(logits, how):
    found = logits.new_full((len(logits), logits.shape[1], *how.size), float("nan"))
    for image, rows in bands(logits, how):
        (first, last), make = band(logits, how, rows)
        found[image : image + 1, :, slice(*rows)] = make(logits[image : image + 1, :, first:last])
    return found


@settings(deadline=None, max_examples=150)
@given(data=st.data(), align=st.booleans())
def test_bands_are_the_rows_of_the_whole(data, align):
    height, width, *full = (data.draw(sides) for _ in range(4))
    size = tuple(data.draw(st.integers(1, side)) for side in full)
    how = Upsampling(tuple(full), size, align)
    logits = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(chunks, "CPU_VALUES", data.draw(st.sampled_from([1, 200, 1000, 10**6])))
        torch.testing.assert_close(by_bands(logits, how), whole(logits, how), rtol=1e-10, atol=1e-10)
    assert torch.equal(upsampled(logits, how), whole(logits, how) if (height, width) != tuple(full) else
                       logits[..., : size[0], : size[1]])  # fmt: skip
    assert upsampled(logits, None) is logits


@pytest.mark.parametrize("align", [True, False])
def test_float32_as_well(align):
    how = Upsampling((321, 321), (321, 300), align)
    logits = torch.randn(1, 5, 81, 81, generator=torch.Generator().manual_seed(0))
    step = logits.diff(dim=2).abs().max()
    rounding = 81 * torch.finfo(torch.float32).eps * step  # of a place among 81 rows, times the steepest slope
    assert (by_bands(logits, how) - whole(logits, how)).abs().max() < 2 * rounding
