"""Crops that are no whole patches of a vision transformer are told of, before and in a run."""

import pytest
from torch import nn

from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.networks.dpt import dpt
from farcluss.training.remarks import patches


def vit(**options):
    return dpt(3, 2, 0, False, encoder="test_vit", **options)


@pytest.mark.parametrize(
    ("crop", "said"),
    [
        ((64, 64), None),
        ((16, 160), None),
        ((70, 70), "Take 64 or 80."),
        ((9, 9), "Take 16."),
        ((32, 70), "Take [32, 64] or [48, 80]."),
    ],
)
def test_whole_patches_need_no_word(crop, said):
    found = patches(vit(), crop)
    wanted = f"data.crop is no multiple of the encoder's patch of 16 pixels: crops are fitted. {said}"
    assert found == ([wanted] if said else [])


def test_other_networks_have_no_patches():
    assert patches(nn.Conv2d(3, 2, 1), (33, 33)) == []
    assert patches(deeplabv3plus(3, 2, 0, False, encoder="test_resnet"), (33, 33)) == []
