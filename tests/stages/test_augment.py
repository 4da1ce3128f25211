"""Views and the labels that they carry: invariants of geometry and color."""

import positions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.errors import PluginError
from farcluss.stages.augment import Identity, Photometric, warp_labels
from farcluss.testing import AugmentTester

MOVING = {"degrees": 25.0, "translate": 0.2, "zoom": (0.8, 1.3), "views": 2}


COLORLESS = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}


def scene(images):
    return positions.scene(images, positions.labels(len(images), tuple(images.shape[2:])))


class TestPhotometric(AugmentTester):
    stage = Photometric
    options = MOVING
    dims = (2,)


class TestIdentity(AugmentTester):
    stage = Identity


@pytest.mark.parametrize("side", [1, 6])
def test_crops_too_small_to_blur(side):
    with pytest.raises(PluginError, match=r"crops of \d x \d\.\nRaise data\.crop to 7 or more, or lower"):
        Photometric().strong(scene(torch.rand(2, 3, side, side)))
    assert Photometric().strong(scene(torch.rand(2, 3, 7, 7)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5), height=st.integers(9, 40), width=st.integers(9, 40))
def test_labels_in_are_labels_out_plus_invalid(seed, batch, height, width):
    torch.manual_seed(seed)
    given = scene(torch.rand(batch, 3, height, width))
    labels, (_, view) = given.weak.labels, Photometric(**MOVING).strong(given)
    moved = view.labels
    assert moved.valid.dtype == torch.bool and moved.classes.dtype == torch.int64
    assert set(moved.classes[:, 0][moved.valid].tolist()) <= set(labels.classes.flatten().tolist())
    assert set(moved.confidence[moved.valid].tolist()) <= set(labels.confidence.flatten().tolist())
    # Class and confidence of a pixel stay together: the class is the pixel's number modulo 7.
    assert (moved.classes[:, 0][moved.valid] == moved.confidence[moved.valid].long() % 7).all()
    assert (moved.values[:, 0][moved.valid] == 1).all()


def test_affine_moves_pixels_and_labels_alike():
    torch.manual_seed(1)
    ramp = torch.stack(torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 50), indexing="ij"))
    images = torch.stack([ramp[0], ramp[1], ramp[0] * 0])[None].expand(3, -1, -1, -1).clone()
    (view,) = Photometric(**COLORLESS, degrees=30.0, translate=0.1, zoom=(0.8, 1.2)).strong(scene(images))
    strong, moved = view.images, view.labels
    number = moved.confidence.long() % (40 * 50)
    rows, columns = number // 50 / 39, number % 50 / 49
    inner = moved.valid & (torch.nn.functional.avg_pool2d(moved.valid.float(), 3, 1, 1) == 1)
    assert inner.float().mean() > 0.4 and not moved.valid.all()
    # The image is interpolated, the labels take the nearest pixel: they differ by less than a pixel.
    assert (strong[:, 0] - rows)[inner].abs().max() < 1 / 39
    assert (strong[:, 1] - columns)[inner].abs().max() < 1 / 49


def test_the_identity_matrix_moves_nothing():
    labels = positions.labels(2, (11, 13))
    moved = warp_labels(labels, torch.eye(3)[None, :2].repeat(2, 1, 1))
    for name in ("values", "classes", "confidence", "entropy", "valid"):
        assert torch.equal(getattr(moved, name), getattr(labels, name))


def test_parameters_are_drawn_per_sample_and_view():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 24).expand(4, -1, -1, -1).clone()
    strong = torch.cat([view.images for view in Photometric(jitter_p=1.0, views=2).strong(scene(image))])
    differences = [(strong[i] - strong[j]).abs().max().item() for i in range(8) for j in range(i)]
    assert min(differences) > 1e-3


@pytest.mark.parametrize("shape", [(2, 3, 4, 8, 8), (2, 1, 8, 8), (2, 5, 8, 8)])
def test_what_kornia_cannot_do_is_refused_by_name(shape):
    with pytest.raises(PluginError, match="augment/photometric needs RGB images") as caught:
        Photometric().strong(scene(torch.rand(*shape)))
    assert len(str(caught.value).splitlines()) <= 3
