import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from farcluss.inference.probs import even_parts, predict_classes, predict_probs, resize, running_mean, sliding, starts
from farcluss.inference.weights import load

# (image, window) per axis: windows of all sizes, but few of them where there are three axes.
SIZES = st.one_of(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=1),
    st.lists(st.tuples(st.integers(1, 15), st.integers(3, 20)), min_size=2, max_size=2),
    st.lists(st.tuples(st.integers(1, 7), st.integers(3, 9)), min_size=3, max_size=3),
)
STRIDES = st.floats(0.3, 1)


def constant(classes=3, seed=0):
    """Probabilities that no binary fraction hits, so that rounding would show."""
    values = torch.rand(classes, generator=torch.Generator().manual_seed(seed)).softmax(0)

    def forward(images):
        shape = (1, -1, *[1] * (images.ndim - 2))
        return values.view(shape).expand(len(images), classes, *images.shape[2:]).clone()

    return forward, values


def by_pixel(images):
    """Probabilities that depend on the pixel alone."""
    return torch.cat([images, 2 * images, images**2], 1).softmax(1)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES, st.booleans(), st.booleans(), st.integers(1, 2))
def test_a_constant_predictor_is_reproduced_to_the_last_bit(axes, stride, flip, whole, batch):
    size, window = zip(*axes, strict=True)
    forward, values = constant()
    probs = predict_probs(
        forward, noise(batch, 1, *size), window=None if whole else window, stride=stride, flip=flip, scales=(1, 1)
    )
    assert probs.shape == (batch, 3, *size)
    assert torch.equal(probs, values.view(1, -1, *[1] * len(size)).expand_as(probs))


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES, st.lists(st.floats(0.3, 2.5), min_size=1, max_size=3))
def test_a_constant_predictor_survives_scales_up_to_rounding(axes, stride, scales):
    size, window = zip(*axes, strict=True)
    forward, values = constant()
    probs = predict_probs(forward, noise(1, 1, *size), window=window, stride=stride, flip=True, scales=scales)
    torch.testing.assert_close(probs, values.view(1, -1, *[1] * len(size)).expand_as(probs), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES, st.booleans())
def test_a_predictor_of_single_pixels_is_reproduced_by_windows(axes, stride, flip):
    size, window = zip(*axes, strict=True)
    images = noise(2, 1, *size)
    whole = by_pixel(images)
    # The mean of equal values is that value; the same pixel may be rounded apart in arrays of another length.
    torch.testing.assert_close(
        predict_probs(by_pixel, images, window=window, stride=stride, flip=flip), whole, rtol=0, atol=1e-6
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_windows_cover_every_pixel_and_stay_inside(extent, window, step):
    window, step = min(window, extent), min(step, window)
    places = starts(extent, window, step)
    covered = np.zeros(extent, bool)
    for place in places:
        assert 0 <= place <= extent - window
        covered[place : place + window] = True
    assert covered.all() and places == sorted(set(places))
    assert len(places) == -(-(extent - window) // step) + 1


def test_windows_have_the_asked_size_and_step():
    seen = []

    def forward(images):
        seen.extend((image[0, 0, 0].item(), tuple(image.shape[1:])) for image in images)
        return images

    images = torch.arange(100.0).view(1, 1, 10, 10)
    assert torch.equal(sliding(forward, images, (4, 6), 0.5), images)
    assert seen == [(10 * row + column, (4, 6)) for row in (0, 2, 4, 6) for column in (0, 3, 4)]


def test_overlaps_take_the_plain_mean():
    """Each window predicts its number; a pixel then has the mean number of the windows that see it."""
    numbers = iter(range(100))

    def forward(images):
        return torch.stack([torch.full((1, *images.shape[2:]), float(next(numbers))) for _ in images])

    found = sliding(forward, noise(1, 3, 1, 10), (1, 4), 0.5)[0, 0, 0].numpy()
    wanted, count = np.zeros(10), np.zeros(10)
    for number, start in enumerate((0, 2, 4, 6)):
        wanted[start : start + 4] += number
        count[start : start + 4] += 1
    np.testing.assert_allclose(found, wanted / count, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES, st.integers(1, 2))
def test_a_gaussian_blend_equals_the_weighted_mean_written_out(axes, stride, batch):
    """Each window predicts noise of its own; in float64, with the weight of each pixel computed by itself."""
    size, window = zip(*axes, strict=True)
    draw, made = np.random.default_rng(0), []

    def forward(images):
        made.append(torch.from_numpy(draw.random((len(images), 3, *images.shape[2:]), np.float32)))
        return made[-1]

    found = sliding(forward, noise(batch, 1, *size), window, stride, "gaussian")
    sides = [min(pair) for pair in axes]
    steps = [starts(extent, side, max(1, int(side * stride))) for extent, side in zip(size, sides, strict=True)]
    windows = [each.numpy() for group in made for each in group.split(batch)]
    wanted, total = np.zeros((batch, 3, *size)), np.zeros(size)
    for corner, probs in zip(np.ndindex(*map(len, steps)), windows, strict=True):
        first = [axis[number] for axis, number in zip(steps, corner, strict=True)]
        for pixel in np.ndindex(*sides):
            away = [(p - (side - 1) / 2) / (side / 8) for p, side in zip(pixel, sides, strict=True)]
            weight = max(np.exp(-sum(each**2 for each in away) / 2), 1e-3)
            place = tuple(a + b for a, b in zip(first, pixel, strict=True))
            wanted[:, :, *place] += weight * probs[:, :, *pixel].astype(np.float64)
            total[place] += weight
    np.testing.assert_allclose(found, wanted / total, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES)
def test_a_gaussian_blend_keeps_what_windows_agree_on(axes, stride):
    size, window = zip(*axes, strict=True)
    forward, values = constant()
    probs = predict_probs(forward, noise(2, 1, *size), window=window, stride=stride, blend="gaussian")
    torch.testing.assert_close(probs, values.view(1, -1, *[1] * len(size)).expand_as(probs), rtol=0, atol=1e-6)


def test_the_center_of_a_window_decides():
    """Two windows that share half of themselves: the middle of each is its own, the middle of both is the mean."""
    numbers = iter(range(2))

    def forward(images):
        return torch.stack([torch.full((1, *images.shape[2:]), float(next(numbers))) for _ in images])

    found = sliding(forward, noise(1, 1, 1, 48), (1, 32), 0.5, "gaussian")[0, 0, 0]
    assert found[16] < 0.05 and found[31] > 0.95 and (found.diff() >= 0).all()
    # 7.5 and 8.5 pixels from the two centers, at a standard deviation of 4.
    assert found[23:25].tolist() == pytest.approx([1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))], rel=1e-5)


def test_a_ramp_is_continued_over_windows_in_two_and_three_axes():
    for size, window in (((9, 13), (4, 5)), ((5, 9, 7), (3, 4, 4))):
        axes = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in size), indexing="ij")
        images = torch.from_numpy(np.stack(axes))[None]
        for stride in (0.3, 2 / 3, 1.0):
            assert torch.allclose(sliding(lambda views: views * 2, images, window, stride), images * 2, atol=1e-6)


def test_flip_averages_with_the_mirrored_view():
    shift = torch.linspace(0, 1, 7).view(1, 1, 1, 7)  # a predictor that knows left from right

    def forward(images):
        return torch.cat([images * shift, images], 1)

    images = noise(2, 1, 5, 7)
    found = predict_probs(forward, images, flip=True)
    plain, mirrored = images.numpy() * shift.numpy(), images.numpy() * shift.numpy()[..., ::-1]
    np.testing.assert_allclose(found[:, :1], (plain + mirrored) / 2, atol=1e-6)
    np.testing.assert_allclose(found[:, 1:], images, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "mode"), [((12, 20), "bilinear"), ((6, 8, 10), "trilinear")])
def test_scales_average_what_each_scale_predicts(flip, size, mode):
    images = noise(1, 1, *size)
    parts = []
    for scale in (0.5, 1.0, 1.5):
        view = interpolate(images, [round(n * scale) for n in size], mode=mode, align_corners=False)
        for mirror in (False, True)[: 1 + flip]:
            probs = by_pixel(view.flip(-1)).flip(-1) if mirror else by_pixel(view)
            parts.append(interpolate(probs, size, mode=mode, align_corners=False).double())
    found = predict_probs(by_pixel, images, flip=flip, scales=(0.5, 1.0, 1.5))
    torch.testing.assert_close(found.double(), torch.stack(parts).mean(0), rtol=0, atol=1e-6)


def test_tiny_images_at_small_scales():
    forward, _ = constant()
    assert predict_probs(forward, noise(1, 1, 1, 2), window=(8, 8), scales=(0.1, 1.0)).shape == (1, 3, 1, 2)


def test_half_precision_predictions_are_averaged_without_losing_the_constant():
    forward, values = constant()
    probs = sliding(lambda images: forward(images).bfloat16(), noise(1, 1, 9, 9), (4, 4), 0.3)
    assert torch.equal(probs[0, :, 4, 4], values.bfloat16())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=8))
def test_running_mean(rows):
    found = running_mean(torch.tensor(row) for row in rows)
    np.testing.assert_allclose(found, np.mean(np.array(rows, np.float64), 0), atol=1e-5)


def test_resize_leaves_what_has_the_size():
    images = noise(1, 2, 5, 6)
    assert resize(images, (5, 6)) is images
    assert resize(images, (0, 3)).shape == (1, 2, 1, 3)


# Several images or windows at once.


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 20))
def test_even_parts(number, most):
    parts = even_parts(number, most)
    assert [n for part in parts for n in range(number)[part]] == list(range(number))
    sizes = [part.stop - part.start for part in parts]
    assert len(parts) == int(np.ceil(number / most))
    assert not sizes or (max(sizes) <= most and max(sizes) - min(sizes) <= 1)


@settings(deadline=None, max_examples=60)
@given(SIZES, STRIDES, st.booleans(), st.integers(1, 4), st.integers(1, 300))
def test_no_forward_holds_more_pixels_than_allowed_and_none_less_than_it_could(axes, stride, whole, batch, limit):
    size, window = zip(*axes, strict=True)
    seen = []

    def forward(images):
        seen.append((len(images), int(np.prod(images.shape[2:]))))
        return images * 2

    images = noise(batch, 1, *size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farcluss.inference.probs.CPU_PIXELS", limit)
        batch = min(batch, max(1, limit // int(np.prod(size))))  # as `farcluss.inference.evaluation` hands them over
        probs = predict_probs(forward, images[:batch], window=None if whole else window, stride=stride)
    torch.testing.assert_close(probs, images[:batch] * 2, rtol=1e-6, atol=0)
    assert all(number == 1 or number * pixels <= limit for number, pixels in seen)
    together = limit // seen[0][1]  # the fewest forwards that do: each takes whole images
    least = sum(number for number, _ in seen) / batch / max(1, together // batch)
    assert len(seen) == int(np.ceil(least))


def test_large_views_of_many_images_go_in_parts():
    seen = []

    def forward(images):
        seen.append(tuple(images.shape))
        return by_pixel(images)

    images = noise(4, 1, 6, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farcluss.inference.probs.CPU_PIXELS", 240)
        found = predict_probs(forward, images, scales=(1.0, 2.0))
    assert seen == [(4, 1, 6, 10), *[(1, 1, 12, 20)] * 4]
    wanted = torch.cat([predict_probs(by_pixel, image[None], scales=(1.0, 2.0)) for image in images])
    torch.testing.assert_close(found, wanted)


@settings(deadline=None, max_examples=40)
@given(SIZES, STRIDES, st.booleans(), st.booleans(), st.sampled_from([(1.0,), (0.5, 1.0), (1.5,)]))
def test_classes_are_those_of_largest_probability(axes, stride, flip, whole, scales):
    size, window = zip(*axes, strict=True)
    images = noise(2, 1, *size)
    ways = {"window": None if whole else window, "stride": stride, "flip": flip, "scales": scales}

    def logits(views):
        return torch.cat([views, 1 - views, views.roll(1, -1)], 1)

    probs = predict_probs(lambda views: logits(views).softmax(1), images, **ways)
    best = probs.gather(1, predict_classes(logits, images, **ways)[:, None])
    torch.testing.assert_close(best[:, 0], probs.amax(1), rtol=0, atol=1e-6)  # equal classes may change places


@pytest.mark.parametrize("settings", [{}, {"flip": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_classes_is_taken(settings, dtype):
    values = torch.tensor([1.0, 3.0, 3.0, 2.0], dtype=dtype).view(1, 4, 1, 1)
    found = predict_classes(lambda images: values.expand(len(images), 4, 5, 7), noise(2, 1, 5, 7), **settings)
    assert found.dtype == torch.int64 and found.tolist() == torch.ones(2, 5, 7).tolist()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_single_view_is_decided_without_probabilities(memory_format):
    logits = (noise(2, 5, 6, 7) * 200).to(memory_format=memory_format)  # whose probabilities saturate
    logits[:, 3] = logits.amax(1) + 1e-4
    assert (predict_classes(lambda _: logits, noise(2, 1, 6, 7)) == 3).all()


def test_bf16_changes_logits_by_its_rounding_alone(trained_run):
    """The network computes in bf16, as autocast does, and nothing behind it; float32 is the default."""
    model = load(trained_run / "weights" / "last.safetensors")
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    half = model.with_inference(model.card.inference.model_copy(update={"precision": "bf16"}))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model.network(model.normalize(images.float() / 255)).logits.float().softmax(1)
    found, plain = half.batch_probs(images), model.batch_probs(images)
    assert found.dtype == torch.float32 and model.card.inference.precision == "float32"
    torch.testing.assert_close(found, wanted)
    assert 0 < (found - plain).abs().max() < 0.05
    assert (half.classify(images) == plain.argmax(1)).float().mean() > 0.95
