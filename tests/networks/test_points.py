"""Points at which networks let features be perturbed: their channels, and that what follows sees the change."""

import pytest
import torch

from farcluss.networks.base import Perturbation, points_of
from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.networks.smp import smp

ARCHITECTURES = ["Unet", "FPN", "DeepLabV3Plus", "PSPNet", "UPerNet"]


def built(name):
    torch.manual_seed(0)
    if name.startswith("test_"):
        return deeplabv3plus(3, 4, 2, False, encoder=name, aspp_channels=8, head_channels=8).eval()
    return smp(3, 4, 2, False, architecture=name, encoder="tu-test_resnet").eval()


def change(network, point, factor):
    """What the network says of three images, every other feature of the last two multiplied; and the maps there."""
    seen = []

    def times(maps, drawn):
        seen.append(maps)
        odd = [torch.arange(each.shape[1]).view(1, -1, 1, 1) % 2 for each in maps]
        return tuple(torch.where(o == 1, each * drawn, each) for each, o in zip(maps, odd, strict=True))

    images = torch.rand(3, 3, 70, 65, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(images, Perturbation(times, point, (1, 2), (None, torch.full((2, 1, 1, 1), factor)))), seen


@pytest.mark.parametrize("point", ["encoder", "fused"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", *ARCHITECTURES])
def test_what_follows_sees_changed_features(name, point):
    network = built(name)
    (same, seen), (other, _) = (change(network, point, factor) for factor in (1.0, 0.0))
    assert len(seen) == 1 and tuple(each.shape[1] for each in seen[0]) == points_of(network)[point]
    with torch.no_grad():
        plain = network(torch.rand(3, 3, 70, 65, generator=torch.Generator().manual_seed(1)))
    for before, unchanged, after in zip(plain, same, other, strict=True):
        torch.testing.assert_close(unchanged, before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after[:1], before[:1], rtol=1e-4, atol=1e-4)
        assert (after[1:] - before[1:]).abs().amax((1, 2, 3)).min() > 1e-3 * before.abs().max()


def test_an_encoder_without_some_strides():
    """It returns an empty map for them, which is no map of the point."""
    network = smp(3, 4, 0, False, architecture="Unet", encoder="tu-test_convnext").eval()
    _, seen = change(network, "encoder", 2.0)
    assert tuple(each.shape[1] for each in seen[0]) == network.points["encoder"] and 0 not in network.points["encoder"]
