"""The strong view of any images: chances, ranges, colors, and the labels that follow."""

import positions
import pytest
import torch

from farcluss.errors import PluginError
from farcluss.plugins.signatures import describe_source
from farcluss.stages.base import View
from farcluss.stages.intensity_view import Intensity
from farcluss.tensors.draws import addressed
from farcluss.testing import AugmentTester

CHANCES = ("noise_p", "blur_p", "brightness_p", "contrast_p", "resolution_p", "gamma_p", "drop_p", "cutout")
NEVER = dict.fromkeys(CHANCES, 0.0)
ALWAYS = dict.fromkeys(CHANCES, 1.0)
COLORS = ("hue_p", "gray_p")
SIZES = {2: (18, 22), 3: (10, 12, 9)}


class TestIntensity(AugmentTester):
    stage = Intensity


class TestAlways(AugmentTester):
    stage = Intensity
    options = {**ALWAYS, "views": 2, "thick_axes": [0]}


class TestOneChannel(AugmentTester):
    stage = Intensity
    options = ALWAYS
    channels = 1


class TestColors(AugmentTester):
    stage = Intensity
    options = {**ALWAYS, "rgb_bands": [3, 0, 2], "hue_p": 1.0, "gray_p": 0.5}
    channels = 4


def volumes(axes=3, batch=4, channels=2, seed=0):
    return torch.randn(batch, channels, *SIZES[axes], generator=torch.Generator().manual_seed(seed)) * 30 - 500


def strong(stage, images, seed=1):
    torch.manual_seed(seed)
    return stage.strong(scene(images))[0].images


def scene(images):
    return positions.scene(images, positions.labels(len(images), tuple(images.shape[2:])))


@pytest.mark.parametrize("axes", SIZES)
def test_without_a_chance_nothing_changes(axes):
    images = volumes(axes)
    assert torch.equal(strong(Intensity(**NEVER), images), images)


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("chance", CHANCES)
def test_every_change_comes_with_its_chance(axes, chance):
    images = volumes(axes, batch=60)
    always = (strong(Intensity(**{**NEVER, chance: 1.0}), images) != images).flatten(1).any(1)
    assert always.float().mean() > 0.95  # a share of 1 of the pixels may be drawn
    half = (strong(Intensity(**{**NEVER, chance: 0.5}), images) != images).flatten(1).any(1)
    assert 15 <= half.sum() <= 45


@pytest.mark.parametrize("axes", SIZES)
def test_every_sample_is_changed_in_its_own_way(axes):
    images = volumes(axes, batch=1).expand(6, *[-1] * (axes + 1)).clone()
    for chance in CHANCES:
        channels = images if chance != "drop_p" else volumes(axes, batch=1, channels=9).expand(6, *[-1] * (axes + 1))
        views = strong(Intensity(**{**NEVER, chance: 1.0}), channels)
        assert len({view.numpy().tobytes() for view in views}) > 3, chance


@pytest.mark.parametrize("axes", SIZES)
def test_the_range_of_the_values_does_not_matter(axes):
    images = volumes(axes, channels=4).double()
    always = {**ALWAYS, "rgb_bands": (2, 0, 1), "hue_p": 1.0}
    stage = Intensity(**always)
    found, wanted = strong(stage, 0.003 * images + 5), 0.003 * strong(stage, images) + 5
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    for view, image in zip(strong(Intensity(**always), images).flatten(0, 1), images.flatten(0, 1), strict=True):
        assert image.min() <= view.min() and view.max() <= image.max()


@pytest.mark.parametrize("axes", SIZES)
def test_the_number_of_processes_changes_nothing(axes):
    images = volumes(axes, channels=4)
    stage = Intensity(**dict.fromkeys((*CHANCES, *COLORS), 0.6), rgb_bands=(2, 0, 1))
    with addressed(seed=3, step=8):
        whole = stage.strong(scene(images))[0].images
    parts = []
    for rank in (0, 1):
        mine = slice(2 * rank, 2 * rank + 2)
        with addressed(seed=3, step=8, rank=rank, world=2):
            parts.append(stage.strong(scene(images[mine]))[0].images)
    torch.testing.assert_close(torch.cat(parts), whole)
    with addressed(seed=3, step=9):
        assert not torch.allclose(stage.strong(scene(images))[0].images, whole)


def test_labels_stay_in_every_view():
    given = scene(volumes())
    views = Intensity(**ALWAYS, views=3).strong(given)
    assert all(view.labels is given.weak.labels for view in views)  # in what is cut out too
    assert len({view.images.numpy().tobytes() for view in views}) == 3


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_one_channel_of_several_is_lost(channels):
    images = volumes(batch=8, channels=channels)
    lost = strong(Intensity(**{**NEVER, "drop_p": 1.0}), images).flatten(2).std(2) < 1e-3
    assert (lost.sum(1) == (1 if channels > 1 else 0)).all()
    assert channels == 1 or lost.any(0).sum() > 1


def test_thick_axes_are_spared():
    profile = torch.randn(4, 1, 10, generator=torch.Generator().manual_seed(0))
    across = profile.view(4, 1, 10, 1, 1).expand(-1, -1, -1, 12, 9).clone()  # varies from slice to slice alone
    within = profile.view(4, 1, 1, 10, 1).expand(-1, -1, 12, -1, 9).clone()
    stage = Intensity(**{**NEVER, "blur_p": 1.0, "resolution_p": 1.0}, thick_axes=(0,))
    torch.testing.assert_close(strong(stage, across), across)
    assert not torch.allclose(strong(stage, within), within)
    with pytest.raises(PluginError, match="have axes 0 to 1"):
        strong(Intensity(thick_axes=(0, 2)), volumes(2))


@pytest.mark.parametrize("axes", SIZES)
def test_the_host_reads_nothing(axes):
    # Tensors without values: whatever needs one fails.
    images = volumes(axes, channels=3).to("meta")
    given = scene(images)
    given = given._replace(weak=View(images, given.weak.labels.map(lambda tensor: tensor.to("meta"))))
    view, other = Intensity(**ALWAYS, views=2, thick_axes=(0,), rgb_bands=(2, 1, 0)).strong(given)
    assert view.images.shape == other.images.shape == view.labels.values.expand(images.shape).shape == images.shape


def test_options_are_read_without_an_import():
    description = describe_source("farcluss.stages.intensity_view", "Intensity")
    assert description is not None and {*CHANCES, *COLORS} < set(description.options)
    assert all(option.help for option in description.options.values())


@pytest.mark.parametrize("chance", ["blur_p", "resolution_p"])
def test_every_axis_has_its_own_strength(chance):
    profile = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(0))
    images = profile.unsqueeze(2) + profile.unsqueeze(3)  # the same along both axes
    view = strong(Intensity(**{**NEVER, chance: 1.0}), images)
    for each in view[:, 0]:
        assert not torch.allclose(each, each.T, atol=1e-3)


def colorful(axes=2, batch=4, channels=5, seed=0):
    """Images with a first and a last pixel that are gray and beyond all others: whatever is turned stays in range."""
    images = volumes(axes, batch, channels, seed)
    flat = images.flatten(2)
    flat[..., 0], flat[..., -1] = 9_999.0, -9_999.0
    return flat.view(images.shape)


@pytest.mark.parametrize("axes", SIZES)
def test_colors_change_where_they_are_declared_alone(axes):
    images = colorful(axes)
    never = {**NEVER, "hue_p": 1.0, "gray_p": 1.0}
    assert torch.equal(strong(Intensity(**never), images), images)
    for chance in COLORS:
        view = strong(Intensity(**NEVER, **{**dict.fromkeys(COLORS, 0.0), chance: 1.0}, rgb_bands=(4, 0, 2)), images)
        assert torch.equal(view[:, [1, 3]], images[:, [1, 3]])
        assert (view != images)[:, [0, 2, 4]].flatten(2).any(2).all()
        torch.testing.assert_close(view[:, [0, 2, 4]].mean(1), images[:, [0, 2, 4]].mean(1), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("chance", COLORS)
def test_colors_change_with_their_chance(chance):
    images = colorful(batch=60)
    stage = Intensity(**NEVER, **{**dict.fromkeys(COLORS, 0.0), chance: 0.5}, rgb_bands=(0, 1, 2))
    changed = (strong(stage, images) != images).flatten(1).any(1)
    assert 15 <= changed.sum() <= 45


def test_every_sample_has_its_own_turn_within_bounds():
    images = colorful(batch=80)
    view = strong(Intensity(**NEVER, rgb_bands=(0, 1, 2), hue=0.2, hue_p=1.0, gray_p=0.0), images)
    across = torch.tensor([[1, -0.5, -0.5], [0, 3**0.5 / 2, -(3**0.5) / 2]])  # coordinates of the color plane
    before, after = (torch.einsum("pc,bchw->bphw", across, x[:, :3]) for x in (images, view))
    angles = [torch.atan2(plane[:, 1], plane[:, 0])[:, 5, 5] for plane in (before, after)]
    turns = ((angles[1] - angles[0]) / (2 * torch.pi) + 0.5) % 1 - 0.5
    assert -0.2 <= turns.min() < -0.15 and 0.15 < turns.max() <= 0.2
    assert len(set(turns.tolist())) == 80


def test_gray_is_the_last_change_of_color():
    images = colorful()
    changed = dict.fromkeys(("brightness_p", "contrast_p", "gamma_p", "hue_p", "gray_p"), 1.0)
    view = strong(Intensity(**{**NEVER, **changed}, brightness=0.01, rgb_bands=(4, 0, 2)), images)[..., 1:-1, 1:-1]
    torch.testing.assert_close(view[:, 0], view[:, 2])
    torch.testing.assert_close(view[:, 0], view[:, 4])
    assert not torch.allclose(view[:, 0], images[:, [0, 2, 4], 1:-1, 1:-1].mean(1))


@pytest.mark.parametrize(
    ("bands", "said"),
    [
        ((0, 1), r"rgb_bands = \[0, 1\] has 2 indices"),
        ((0, 1, 2, 3), "has 4 indices"),
        ((0, 1, 0), r"rgb_bands = \[0, 1, 0\] names a channel twice"),
        ((1, 2, 3), r"rgb_bands = \[1, 2, 3\], but the images have channels 0 to 2"),
    ],
)
def test_bands_that_are_no_colors_are_refused(bands, said):
    with pytest.raises(PluginError, match=said) as caught:
        strong(Intensity(rgb_bands=bands), volumes(2, channels=3))
    assert "stages.augment.rgb_bands" in str(caught.value) and str(caught.value).count("\n") < 3


@pytest.mark.parametrize("constant", [(1,), (0, 1, 2, 3)])
@pytest.mark.parametrize("axes", SIZES)
def test_constant_channels_stay_constant(axes, constant):
    images = volumes(axes, channels=4)
    images[:, list(constant)] = 7.0
    view = strong(Intensity(**ALWAYS, rgb_bands=(0, 1, 2), hue_p=1.0, gray_p=0.5), images)
    assert view.isfinite().all()
    torch.testing.assert_close(view[:, list(constant)], images[:, list(constant)])


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    images = colorful()
    stage = Intensity(**dict.fromkeys((*CHANCES, *COLORS), 0.7), rgb_bands=(0, 1, 2))
    other = images.clone()
    other[1:] = 1e6 * other[1:] - 3
    torch.testing.assert_close(strong(stage, images)[0], strong(stage, other)[0], rtol=0, atol=0)
