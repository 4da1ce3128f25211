"""Strong views of volumes: chances, ranges, and the labels that follow."""

import pytest
import torch

from farcluss.draws import addressed
from farcluss.errors import PluginError
from farcluss.signatures import describe_source
from farcluss.stages.base import PseudoLabels
from farcluss.testing import AugmentTester
from farcluss_medical.augment import VolumeIntensity

CHANCES = ("noise_p", "blur_p", "brightness_p", "contrast_p", "resolution_p", "gamma_p", "drop_p", "cutout")
NEVER = dict.fromkeys(CHANCES, 0.0)
ALWAYS = dict.fromkeys(CHANCES, 1.0)
SIZES = {2: (18, 22), 3: (10, 12, 9)}


class TestVolumeIntensity(AugmentTester):
    stage = VolumeIntensity


class TestAlways(AugmentTester):
    stage = VolumeIntensity
    options = {**ALWAYS, "cutmix": 0.7, "thick_axes": [0]}


class TestOneChannel(AugmentTester):
    stage = VolumeIntensity
    options = ALWAYS
    channels = 1


def volumes(axes=3, batch=4, channels=2, seed=0):
    return torch.randn(batch, channels, *SIZES[axes], generator=torch.Generator().manual_seed(seed)) * 30 - 500


def strong(stage, images, seed=1):
    torch.manual_seed(seed)
    return stage(images, torch.ones(len(images), *images.shape[2:], dtype=torch.bool)).strong[0]


def position_labels(batch, size):
    """Labels whose confidence numbers the pixels of the whole batch."""
    numbers = torch.arange(batch * torch.Size(size).numel()).view(batch, *size)
    values = torch.ones(batch, 1, *size)
    return PseudoLabels(values, numbers.unsqueeze(1) % 7, values[:, 0], numbers.float(), numbers >= 0)


@pytest.mark.parametrize("axes", SIZES)
def test_without_a_chance_nothing_changes(axes):
    images = volumes(axes)
    assert torch.equal(strong(VolumeIntensity(**NEVER), images), images)


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("chance", CHANCES)
def test_every_change_comes_with_its_chance(axes, chance):
    images = volumes(axes, batch=60)
    always = (strong(VolumeIntensity(**{**NEVER, chance: 1.0}), images) != images).flatten(1).any(1)
    assert always.float().mean() > 0.95  # a share of 1 of the pixels may be drawn
    half = (strong(VolumeIntensity(**{**NEVER, chance: 0.5}), images) != images).flatten(1).any(1)
    assert 15 <= half.sum() <= 45


@pytest.mark.parametrize("axes", SIZES)
def test_every_sample_is_changed_in_its_own_way(axes):
    images = volumes(axes, batch=1).expand(6, *[-1] * (axes + 1)).clone()
    for chance in CHANCES:
        channels = images if chance != "drop_p" else volumes(axes, batch=1, channels=9).expand(6, *[-1] * (axes + 1))
        views = strong(VolumeIntensity(**{**NEVER, chance: 1.0}), channels)
        assert len({view.numpy().tobytes() for view in views}) > 3, chance


@pytest.mark.parametrize("axes", SIZES)
def test_the_range_of_the_values_does_not_matter(axes):
    images = volumes(axes).double()
    stage = VolumeIntensity(**ALWAYS, cutmix=0.7)
    found, wanted = strong(stage, 0.003 * images + 5), 0.003 * strong(stage, images) + 5
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    for view, image in zip(strong(VolumeIntensity(**ALWAYS), images).flatten(0, 1), images.flatten(0, 1), strict=True):
        assert image.min() <= view.min() and view.max() <= image.max()


@pytest.mark.parametrize("axes", SIZES)
def test_the_number_of_processes_changes_nothing(axes):
    images = volumes(axes)
    stage = VolumeIntensity(**dict.fromkeys(CHANCES, 0.6))
    valid = torch.ones(4, *SIZES[axes], dtype=torch.bool)
    with addressed(seed=3, step=8):
        whole = stage(images, valid).strong[0]
    parts = []
    for rank in (0, 1):
        mine = slice(2 * rank, 2 * rank + 2)
        with addressed(seed=3, step=8, rank=rank, world=2):
            parts.append(stage(images[mine], valid[mine]).strong[0])
    torch.testing.assert_close(torch.cat(parts), whole)
    with addressed(seed=3, step=9):
        assert not torch.allclose(stage(images, valid).strong[0], whole)


@pytest.mark.parametrize("axes", SIZES)
def test_cutmix_moves_pixels_and_labels_alike(axes):
    torch.manual_seed(3)
    labels = position_labels(4, SIZES[axes])
    images = labels.confidence.unsqueeze(1).repeat(1, 2, *[1] * axes)
    views = VolumeIntensity(**NEVER, cutmix=1.0)(images, labels.valid)
    moved = views.follow[0](labels)
    assert torch.equal(views.strong[0][:, 0], moved.confidence) and torch.equal(views.strong[0][:, 1], moved.confidence)
    assert (moved.classes[:, 0] == moved.confidence.long() % 7).all()
    assert (moved.confidence != labels.confidence).flatten(1).any(1).all()
    assert torch.equal(views.weak, images)


def test_without_cutmix_labels_stay():
    labels = position_labels(4, SIZES[3])
    moved = VolumeIntensity(**ALWAYS)(volumes(), labels.valid).follow[0](labels)
    assert torch.equal(moved.confidence, labels.confidence) and moved.valid.all()  # in what is cut out too


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_one_channel_of_several_is_lost(channels):
    images = volumes(batch=8, channels=channels)
    lost = strong(VolumeIntensity(**{**NEVER, "drop_p": 1.0}), images).flatten(2).std(2) < 1e-3
    assert (lost.sum(1) == (1 if channels > 1 else 0)).all()
    assert channels == 1 or lost.any(0).sum() > 1


def test_thick_axes_are_spared():
    profile = torch.randn(4, 1, 10, generator=torch.Generator().manual_seed(0))
    across = profile.view(4, 1, 10, 1, 1).expand(-1, -1, -1, 12, 9).clone()  # varies from slice to slice alone
    within = profile.view(4, 1, 1, 10, 1).expand(-1, -1, 12, -1, 9).clone()
    stage = VolumeIntensity(**{**NEVER, "blur_p": 1.0, "resolution_p": 1.0}, thick_axes=(0,))
    torch.testing.assert_close(strong(stage, across), across)
    assert not torch.allclose(strong(stage, within), within)
    with pytest.raises(PluginError, match="have axes 0 to 1"):
        strong(VolumeIntensity(thick_axes=(0, 2)), volumes(2))


@pytest.mark.parametrize("axes", SIZES)
def test_the_host_reads_nothing(axes):
    # Tensors without values: whatever needs one fails.
    images = volumes(axes).to("meta")
    valid = torch.ones(4, *SIZES[axes], dtype=torch.bool, device="meta")
    views = VolumeIntensity(**ALWAYS, cutmix=0.5, thick_axes=(0,))(images, valid)
    labels = position_labels(4, SIZES[axes]).map(lambda tensor: tensor.to("meta"))
    assert views.strong[0].shape == views.follow[0](labels).values.expand(images.shape).shape == images.shape


def test_options_are_read_without_an_import():
    description = describe_source("farcluss_medical.augment", "VolumeIntensity")
    assert description is not None and set(CHANCES) < set(description.options)
    assert all(option.help for option in description.options.values())


@pytest.mark.parametrize("chance", ["blur_p", "resolution_p"])
def test_every_axis_has_its_own_strength(chance):
    profile = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(0))
    images = profile.unsqueeze(2) + profile.unsqueeze(3)  # the same along both axes
    view = strong(VolumeIntensity(**{**NEVER, chance: 1.0}), images)
    for each in view[:, 0]:
        assert not torch.allclose(each, each.T, atol=1e-3)
