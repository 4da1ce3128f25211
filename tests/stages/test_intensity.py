"""Changes of intensity: closed forms, other libraries, and what must hold for images of any range and dimension."""

import colorsys

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak
from torch.nn.functional import interpolate

from farcluss.stages import intensity
from farcluss.stages.mixing import Boxes

SIZES = {1: (23,), 2: (9, 14), 3: (7, 10, 5)}


def volumes(axes=3, batch=3, channels=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(batch, channels, *[1] * axes, generator=generator, dtype=dtype) * 40 + 1
    return scale * torch.randn(batch, channels, *SIZES[axes], generator=generator, dtype=dtype) - 3 * scale


def operations(axes=3, batch=3, channels=3, seed=5, device="cpu"):
    """Every operation with parameters that change every sample, and differ by sample, channel and axis."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(batch, *shape, generator=generator).to(device)

    boxes = (torch.rand(batch, *SIZES[axes], generator=generator) < 0.3).to(device)
    seeds = torch.randint(2**62, (batch,), generator=generator).to(device)
    shared = {name: draw(axes) for name in ("blur", "resolution")}
    strengths, shift, contrast, gamma = draw(), draw(channels), draw(channels) + 0.5, draw(channels) + 0.5
    dropped = draw(channels) < 0.5
    gray = torch.arange(batch).to(device) % 2 == 0
    return {
        "noise": lambda x: intensity.add_noise(x, strengths, seeds),
        "blur": lambda x: intensity.blur(x, shared["blur"] * 2, 4),
        "brightness": lambda x: intensity.brighten(x, shift - 0.5),
        "contrast": lambda x: intensity.change_contrast(x, contrast),
        "free contrast": lambda x: intensity.change_contrast(x, contrast, preserve_range=False),
        "gamma": lambda x: intensity.change_gamma(x, gamma),
        "hue": lambda x: intensity.turn_hue(x, strengths * 0.4 + 0.05, (2, 0, 1)),
        "gray": lambda x: intensity.to_gray(x, gray, (2, 0, 1)),
        "resolution": lambda x: intensity.lower_resolution(x, shared["resolution"] * 0.6 + 0.2),
        "channels": lambda x: intensity.drop_channels(x, dropped),
        "cutout": lambda x: intensity.cut_out(x, boxes),
        "range": lambda x: intensity.keep_range(1.5 * (x - x.mean()) + x.mean(), x),
    }


NAMES = list(operations())
RELATIVE = [name for name in NAMES if name != "range"]  # whose other image the test itself would have to change


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("radius", [0, 3, 12])
def test_blur_is_that_of_scipy(axes, radius):
    images = volumes(axes)
    sigma = torch.tensor([[0.3, 1.0, 2.5], [2.0, 0.7, 1.3], [0.9, 0.5, 4.0]], dtype=torch.float64)[:, :axes]
    found = intensity.blur(images, sigma, radius)
    for sample in range(3):
        for channel in range(3):
            wanted = images[sample, channel].numpy()
            for axis in range(axes):
                width = float(sigma[sample, axis])
                wanted = scipy.ndimage.gaussian_filter1d(wanted, width, axis, mode="nearest", radius=radius)
            np.testing.assert_allclose(found[sample, channel].numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", SIZES)
def test_brightness_contrast_and_gamma_are_their_formulas(axes):
    images = volumes(axes, channels=2)
    parameters = torch.tensor([[0.5, 1.3], [2.0, 0.8], [1.1, 1.9]], dtype=torch.float64)
    bright = intensity.brighten(images, parameters)
    contrast = intensity.change_contrast(images, parameters)
    free = intensity.change_contrast(images, parameters, preserve_range=False)
    gamma = intensity.change_gamma(images, parameters)
    cut = 0
    for place in np.ndindex(3, 2):
        x, value = images[place].numpy(), float(parameters[place])
        low, high = x.min(), x.max()
        np.testing.assert_allclose(bright[place], x + value * x.std())
        wanted = x.mean() + value * (x - x.mean())
        np.testing.assert_allclose(free[place], wanted)
        np.testing.assert_allclose(contrast[place], wanted.clip(low, high))
        cut += (wanted != wanted.clip(low, high)).sum()
        np.testing.assert_allclose(gamma[place], low + (high - low) * ((x - low) / (high - low)) ** value)
        np.testing.assert_allclose([gamma[place].min(), gamma[place].max()], [low, high])
    assert cut > 0  # the range was at stake


@pytest.mark.parametrize("axes", SIZES)
def test_low_resolution_is_nearest_down_and_linear_up(axes):
    images = volumes(axes, batch=5)
    generator = torch.Generator().manual_seed(2)
    factor = torch.rand(5, axes, generator=generator) * 0.9 + 0.1
    found = intensity.lower_resolution(images, factor)
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    for sample in range(5):
        sizes = zip(factor[sample].tolist(), SIZES[axes], strict=True)
        kept = [min(extent, max(1, round(share * extent))) for share, extent in sizes]
        small = interpolate(images[sample : sample + 1], size=kept, mode="nearest-exact")
        wanted = interpolate(small, size=SIZES[axes], mode=modes[axes], align_corners=False)
        torch.testing.assert_close(found[sample : sample + 1], wanted)
    assert found.amax() <= images.amax() and found.amin() >= images.amin()


def test_what_is_asked_to_change_nothing_changes_nothing():
    images = volumes(dtype=torch.float32)
    none, whole = torch.zeros(3, 3), torch.ones(3, 3)
    seeds = torch.arange(3)
    assert torch.equal(intensity.add_noise(images, none[:, 0], seeds), images)
    assert torch.equal(intensity.blur(images, none, 5), images)
    assert torch.equal(intensity.brighten(images, none[:, 0]), images)
    assert torch.equal(intensity.lower_resolution(images, whole), images)
    assert torch.equal(intensity.drop_channels(images, none > 0), images)
    assert torch.equal(intensity.cut_out(images, images[:, 0] > torch.inf), images)
    assert torch.equal(intensity.turn_hue(images, none[:, 0], (0, 1, 2)), images)
    assert torch.equal(intensity.to_gray(images, none[:, 0] > 0, (0, 1, 2)), images)
    torch.testing.assert_close(intensity.change_contrast(images, whole[:, 0]), images)
    torch.testing.assert_close(intensity.change_gamma(images, whole[:, 0]), images)


def test_a_sample_may_be_left_alone_among_others():
    images = volumes(dtype=torch.float32)
    some = torch.tensor([0.0, 1.0, 0.5])
    found = [
        intensity.add_noise(images, some, torch.arange(3)),
        intensity.blur(images, some[:, None].expand(-1, 3), 3),
        intensity.lower_resolution(images, 1 - 0.5 * some[:, None].expand(-1, 3)),
        intensity.turn_hue(images, 0.3 * some, (0, 1, 2)),
        intensity.to_gray(images, some > 0, (0, 1, 2)),
    ]
    for each in found:
        assert torch.equal(each[0], images[0])
        assert not torch.equal(each[1], images[1]) and not torch.equal(each[2], images[2])


def test_noise_is_normal_and_independent():
    numbers = intensity.normal_numbers(torch.tensor([0, 1, 2**62 - 1]), (2, 40, 50, 20)).double()
    for each in numbers.flatten(1):
        assert scipy.stats.kstest(each.numpy(), "norm").pvalue > 1e-3
        assert abs(each.mean()) < 0.02 and abs(each.std() - 1) < 0.01
        assert abs(scipy.stats.kurtosis(each)) < 0.05
        for lag in (1, 2, 20, 50 * 20, 40 * 50 * 20):
            assert abs(np.corrcoef(each[:-lag], each[lag:])[0, 1]) < 0.02
    assert np.abs(np.corrcoef(numbers.flatten(1)) - np.eye(3)).max() < 0.02


def test_the_hash_is_the_published_generator():
    # The first outputs of SplitMix64 from the seed 1234567, as its authors' program prints them.
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    wanted = []
    for word in words:
        share, turn = ((word >> 40) + 1) / 2**24, ((word >> 16) % 2**24) / 2**24
        wanted.append(np.sqrt(-2 * np.log(share)) * np.cos(2 * np.pi * turn))
    np.testing.assert_allclose(intensity.normal_numbers(torch.tensor([1234567]), (3,))[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_noise_of_a_sample_does_not_depend_on_the_batch():
    images = volumes()
    strength, seeds = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([7, 8, 9])
    together = intensity.add_noise(images, strength, seeds)
    for sample in range(3):
        part = slice(sample, sample + 1)
        assert torch.equal(together[part], intensity.add_noise(images[part], strength[part], seeds[part]))
        added = (together - images)[sample].flatten(1)
        torch.testing.assert_close(
            added.std(1) / images[sample].flatten(1).std(1), strength[sample].expand(3).double(), rtol=0.2, atol=0
        )


@settings(max_examples=60, deadline=None)
@given(
    axes=st.integers(1, 3),
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 500),
    shift=st.floats(-1000, 1000),
    name=st.sampled_from(RELATIVE),
)
def test_every_operation_commutes_with_scale_and_shift(axes, seed, scale, shift, name):
    images = volumes(axes, seed=seed)
    operation = operations(axes, seed=seed)[name]
    torch.testing.assert_close(
        operation(scale * images + shift), scale * operation(images) + shift, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0, -1024.0])
def test_constants_stay_constant(name, value):
    images = torch.full((3, 3, *SIZES[3]), value)
    torch.testing.assert_close(operations()[name](images), images, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_changes_something_and_writes_nothing(name):
    images = volumes()
    before = images.clone()
    changed = operations()[name](images)
    assert changed.shape == images.shape and changed.dtype == images.dtype and changed.isfinite().all()
    assert not torch.equal(changed, images) and torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_a_volume_of_one_slice(name):
    images = volumes(2)
    flat, deep = images, images.unsqueeze(2)
    if name == "blur":
        sigma = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)) + 0.2
        found = [intensity.blur(flat, sigma, 3), intensity.blur(deep, torch.cat([sigma[:, :1], sigma], 1), 3)]
    elif name == "resolution":
        factor = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
        both = torch.cat([factor[:, :1], factor], 1)
        found = [intensity.lower_resolution(flat, factor), intensity.lower_resolution(deep, both)]
    elif name == "cutout":
        boxes = images[:, 0] > images[:, 0].mean()
        found = [intensity.cut_out(flat, boxes), intensity.cut_out(deep, boxes.unsqueeze(1))]
    else:
        operation = operations(2)[name]
        found = [operation(flat), operation(deep)]
    torch.testing.assert_close(found[1].squeeze(2), found[0])


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_axes_may_be_exchanged(order):
    images = volumes()
    moved = images.permute(0, 1, *(axis + 2 for axis in order))
    sigma = torch.tensor([[0.3, 1.0, 2.5], [2.0, 0.7, 1.3], [0.9, 0.5, 4.0]])
    factor = torch.tensor([[0.3, 1.0, 0.5], [0.4, 0.7, 0.8], [0.9, 0.5, 0.2]])
    for operation, values in (
        (lambda x, v: intensity.blur(x, v, 4), sigma),
        (intensity.lower_resolution, factor),
    ):
        wanted = operation(images, values).permute(0, 1, *(axis + 2 for axis in order))
        torch.testing.assert_close(operation(moved, values[:, list(order)]), wanted)


def test_dropped_channels_are_their_mean_and_never_all():
    images = volumes(channels=3)
    dropped = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    found = intensity.drop_channels(images, dropped)
    for channel in (0, 2):
        torch.testing.assert_close(found[0, channel], images[0, channel].mean().expand(SIZES[3]))
    assert torch.equal(found[0, 1], images[0, 1]) and torch.equal(found[1:], images[1:])
    single = volumes(channels=1)
    assert torch.equal(intensity.drop_channels(single, torch.ones(3, 1, dtype=torch.bool)), single)


def test_cutout_fills_the_box_with_the_mean():
    torch.manual_seed(0)
    images = volumes()
    boxes = Boxes(area=(0.2, 0.4), aspect=(0.5, 2.0)).draw(3, SIZES[3])
    found = intensity.cut_out(images, boxes)
    for sample, channel in np.ndindex(3, 3):
        x, box = images[sample, channel].numpy(), boxes[sample].numpy()
        np.testing.assert_allclose(found[sample, channel].numpy(), np.where(box, x.mean(), x))


def rodrigues(turn):
    """The rotation matrix about the gray axis, in float64."""
    axis, angle = np.ones(3) / np.sqrt(3), 2 * np.pi * turn
    cross = np.cross(axis, np.eye(3)).T
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("bands", [(0, 1, 2), (3, 2, 0), (4, 0, 2)])
def test_a_turn_of_hue_is_a_rotation_about_the_gray_axis(axes, bands):
    images = volumes(axes, channels=5)
    turns = torch.tensor([0.1, -0.37, 0.5], dtype=torch.float64)
    found = intensity.turn_hue(images, turns, bands)
    others = [channel for channel in range(5) if channel not in bands]
    assert torch.equal(found[:, others], images[:, others])
    for sample, turn in enumerate(turns.tolist()):
        before, after = (x[sample, list(bands)].flatten(1).numpy() for x in (images, found))
        np.testing.assert_allclose(after, rodrigues(turn) @ before, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(after.mean(0), before.mean(0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(after, axis=0), np.linalg.norm(before, axis=0))


def test_a_whole_turn_is_none_and_a_third_permutes_the_channels():
    images = volumes()
    whole, third = torch.ones(3, dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(intensity.turn_hue(images, whole, (0, 1, 2)), images)
    turned = intensity.turn_hue(images, third, (0, 1, 2))
    torch.testing.assert_close(turned, images[:, [2, 0, 1]])  # what was red is green
    back = intensity.turn_hue(turned, -third, (0, 1, 2))
    torch.testing.assert_close(back, images)


def test_turns_are_those_of_the_color_circle():
    # Of pure colors, hues by the standard library: the circle has red at 0, green at 1/3, blue at 2/3.
    for turn in (1 / 3, -1 / 3):
        color = intensity.turn_hue(torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([turn]), (0, 1, 2))
        hue, _, value = colorsys.rgb_to_hsv(*color[0, :, 0].round(decimals=4).abs().tolist())
        assert (hue, value) == (pytest.approx(turn % 1), 1)


def test_gray_pixels_keep_any_turn_and_all_are_gray_of_the_mean():
    images = volumes(channels=4, dtype=torch.float32)
    gray = images[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(intensity.turn_hue(gray, torch.tensor([0.1, 0.4, -0.3]), (1, 2, 3)), gray)
    found = intensity.to_gray(images, torch.tensor([True, False, True]), (3, 0, 2))
    assert torch.equal(found[:, 1], images[:, 1]) and torch.equal(found[1], images[1])
    wanted = images[:, [3, 0, 2]].double().numpy().mean(1)
    for sample, channel in ((0, 3), (0, 0), (0, 2), (2, 3), (2, 0), (2, 2)):
        np.testing.assert_allclose(found[sample, channel], wanted[sample], rtol=1e-5, atol=1e-4)


def test_gray_is_the_same_before_and_after_a_turn():
    images, turns, all_of_them = volumes(), torch.tensor([0.1, 0.4, -0.3]), torch.ones(3, dtype=torch.bool)
    after = intensity.to_gray(intensity.turn_hue(images, turns, (0, 1, 2)), all_of_them, (0, 1, 2))
    before = intensity.turn_hue(intensity.to_gray(images, all_of_them, (0, 1, 2)), turns, (0, 1, 2))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_host_reads_nothing(name):
    # Tensors without values: whatever needs one fails.
    images = volumes().to("meta")
    assert operations(device="meta")[name](images).shape == images.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(images.mean() > 0)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_a_few_times_that_of_the_images(name, monkeypatch):
    monkeypatch.setitem(SIZES, 3, (48, 48, 48))
    images = volumes(channels=3, batch=2, dtype=torch.float32)
    operation = operations(batch=2, channels=3)[name]
    highest, _ = peak(lambda: operation(images))
    assert images.nbytes <= highest < 10 * images.nbytes
