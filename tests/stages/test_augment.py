"""Views and the labels that follow them: invariants of geometry, mixing and color."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.errors import PluginError
from farcluss.stages.augment import Identity, Photometric, warp_labels
from farcluss.stages.base import PseudoLabels
from farcluss.stages.mixing import mix, random_boxes
from farcluss.testing import AugmentTester

MOVING = {"degrees": 25.0, "translate": 0.2, "zoom": (0.8, 1.3), "cutmix": 0.7}


def position_labels(batch: int, size: tuple[int, ...]) -> PseudoLabels:
    """Labels that say where each pixel comes from: the confidence numbers the pixels of the whole batch."""
    numbers = torch.arange(batch * int(np.prod(size))).view(batch, *size)
    values = torch.ones(batch, 1, *size)
    valid = torch.ones(batch, *size, dtype=torch.bool)
    return PseudoLabels(values, numbers.unsqueeze(1) % 7, values[:, 0], numbers.float(), valid)


def position_images(batch: int, size: tuple[int, ...]) -> torch.Tensor:
    """Images whose three channels are the pixel's number in the batch, in [0, 1]."""
    numbers = torch.arange(batch * int(np.prod(size))).view(batch, 1, *size)
    return (numbers / numbers.max()).expand(-1, 3, *[-1] * len(size)).clone()


COLORLESS = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}


class TestPhotometric(AugmentTester):
    stage = Photometric
    options = MOVING
    dims = (2,)


class TestIdentity(AugmentTester):
    stage = Identity


@pytest.mark.parametrize("side", [1, 6])
def test_crops_too_small_to_blur(side):
    with pytest.raises(PluginError, match=r"crops of \d x \d\.\nRaise data\.crop to 7 or more, or lower"):
        Photometric()(torch.rand(2, 3, side, side), torch.ones(2, side, side, dtype=torch.bool))
    assert Photometric()(torch.rand(2, 3, 7, 7), torch.ones(2, 7, 7, dtype=torch.bool))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5), height=st.integers(9, 40), width=st.integers(9, 40))
def test_labels_in_are_labels_out_plus_invalid(seed, batch, height, width):
    torch.manual_seed(seed)
    labels = position_labels(batch, (height, width))
    views = Photometric(**MOVING)(torch.rand(batch, 3, height, width), labels.valid)
    moved = views.follow[0](labels)
    assert moved.valid.dtype == torch.bool and moved.classes.dtype == torch.int64
    assert set(moved.classes[:, 0][moved.valid].tolist()) <= set(labels.classes.flatten().tolist())
    assert set(moved.confidence[moved.valid].tolist()) <= set(labels.confidence.flatten().tolist())
    # Class, confidence and weight of a pixel stay together: the class is the pixel's number modulo 7.
    assert (moved.classes[:, 0][moved.valid] == moved.confidence[moved.valid].long() % 7).all()
    assert (moved.values[:, 0][moved.valid] == 1).all()


@pytest.mark.parametrize("options", [{"cutmix": 1.0}, {"cutmix": 0.5, "cutmix_area": (0.2, 0.9)}])
def test_cutmix_moves_pixels_and_labels_alike(options):
    torch.manual_seed(3)
    labels = position_labels(4, (16, 20))
    images = position_images(4, (16, 20))
    views = Photometric(**COLORLESS, **options)(images, labels.valid)
    moved = views.follow[0](labels)
    expected = moved.confidence / labels.confidence.max()
    torch.testing.assert_close(views.strong[0][:, 0], expected)
    changed = (moved.confidence != labels.confidence).flatten(1).any(1)
    assert changed.any() and (options["cutmix"] < 1 or changed.all())


def test_affine_moves_pixels_and_labels_alike():
    torch.manual_seed(1)
    size = (40, 50)
    ramp = torch.stack(torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 50), indexing="ij"))
    images = torch.stack([ramp[0], ramp[1], ramp[0] * 0])[None].expand(3, -1, -1, -1).clone()
    labels = position_labels(3, size)
    views = Photometric(**COLORLESS, degrees=30.0, translate=0.1, zoom=(0.8, 1.2))(images, labels.valid)
    moved = views.follow[0](labels)
    number = moved.confidence.long() % (40 * 50)
    rows, columns = number // 50 / 39, number % 50 / 49
    inner = moved.valid & (torch.nn.functional.avg_pool2d(moved.valid.float(), 3, 1, 1) == 1)
    assert inner.float().mean() > 0.4 and not moved.valid.all()
    # The image is interpolated, the labels take the nearest pixel: they differ by less than a pixel.
    assert (views.strong[0][:, 0] - rows)[inner].abs().max() < 1 / 39
    assert (views.strong[0][:, 1] - columns)[inner].abs().max() < 1 / 49


def test_the_identity_matrix_moves_nothing():
    labels = position_labels(2, (11, 13))
    moved = warp_labels(labels, torch.eye(3)[None, :2].repeat(2, 1, 1))
    for name in ("values", "classes", "weight", "confidence", "valid"):
        assert torch.equal(getattr(moved, name), getattr(labels, name))


def test_parameters_are_drawn_per_sample():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 24).expand(8, -1, -1, -1).clone()
    strong = Photometric(jitter_p=1.0)(image, torch.ones(8, 24, 24, dtype=torch.bool)).strong[0]
    differences = [(strong[i] - strong[j]).abs().max().item() for i in range(8) for j in range(i)]
    assert min(differences) > 1e-3


@pytest.mark.parametrize("shape", [(2, 3, 4, 8, 8), (2, 1, 8, 8), (2, 5, 8, 8)])
def test_what_kornia_cannot_do_is_refused_by_name(shape):
    with pytest.raises(PluginError, match="augment/photometric needs RGB images") as caught:
        Photometric()(torch.rand(*shape), torch.ones(shape[0], *shape[2:], dtype=torch.bool))
    assert len(str(caught.value).splitlines()) <= 3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.lists(st.integers(4, 30), min_size=1, max_size=3),
    low=st.floats(0.05, 0.4),
    spread=st.floats(0.0, 0.5),
)
def test_boxes_have_the_area_asked_for_in_any_dimension(seed, size, low, spread):
    torch.manual_seed(seed)
    boxes = random_boxes(6, tuple(size), 1.0, (low, low + spread), (1.0, 1.0), "cpu")
    assert boxes.shape == (6, *size) and boxes.dtype == torch.bool
    sides = [(low ** (1 / len(size)), (low + spread) ** (1 / len(size)))] * len(size)
    for box in boxes:
        where = box.nonzero()
        extent = where.max(0).values - where.min(0).values + 1
        assert int(extent.prod()) == int(box.sum())  # one box, no holes
        for side, pixels, (least, most) in zip(extent.tolist(), size, sides, strict=True):
            assert max(1, np.floor(least * pixels)) <= side <= max(1, np.ceil(most * pixels))


def test_no_boxes_without_a_chance():
    assert not random_boxes(5, (8, 9), 0.0, (0.1, 0.4), (0.3, 3.3), "cpu").any()


def test_aspect_ratios_are_those_asked_for():
    torch.manual_seed(0)
    boxes = random_boxes(400, (200, 200), 1.0, (0.1, 0.1), (0.25, 4.0), "cpu")
    ratios = boxes.any(2).sum(1) / boxes.any(1).sum(1)
    assert ratios.min() >= 0.24 and ratios.max() <= 4.2
    assert abs(ratios.log().mean()) < 0.15 and ratios.log().std() > 0.3


def test_mixing_takes_the_box_from_the_previous_sample():
    tensor = torch.arange(3.0).view(3, 1, 1).expand(3, 4, 4)
    boxes = torch.zeros(3, 4, 4, dtype=torch.bool)
    boxes[:, 1:3, 1:3] = True
    mixed = mix(tensor, boxes)
    assert mixed[1, 1, 1] == 0 and mixed[2, 2, 2] == 1 and mixed[0, 1, 1] == 2
    assert (mixed[:, 0] == tensor[:, 0]).all()
