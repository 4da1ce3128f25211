"""Losses in chunks against the same losses written plainly: numbers, gradients, and the memory they need."""

from dataclasses import replace

import oracles
import pytest
import torch
from memory import peak

from farcluss.data.base import IGNORE
from farcluss.learning.losses import divergences, fuzzy_target, hard_pixels, pixel_cross_entropy, true_target
from farcluss.stages.pseudo_label import top_classes
from farcluss.tensors import chunks
from farcluss.tensors.entropy import normalized_entropy
from farcluss.tensors.precision import wide_softmax

SPACES = [(23,), (7, 11), (3, 5, 7)]
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.fixture(autouse=True)
def few_values(monkeypatch):
    """Chunks of about eight pixels, which divide nothing here."""
    monkeypatch.setattr(chunks, "CPU_VALUES", 41)


def kl(logits, labels, pixel_weight):
    return divergences(logits, [fuzzy_target(labels, pixel_weight)])[0]


def cross_entropy(logits, masks):
    return divergences(logits, [true_target(masks)])[0]


def ohem(logits, masks, threshold, min_kept):
    kept = hard_pixels(pixel_cross_entropy(logits, masks), masks, threshold=threshold, min_kept=min_kept)
    return cross_entropy(logits, torch.where(kept, masks, IGNORE))


def plain_ohem(*arguments):
    return oracles.plain_ohem(*arguments)[0]


def pseudo(space, dtype=torch.float32, b=2, c=5, k=3):
    """Labels and omegas."""
    labels = oracles.random_labels(space, b=b, c=c, k=k, dtype=dtype)
    return labels, oracles.random_labels(space, b=b, seed=50, dtype=dtype).entropy * 3


def slope(loss, logits, *arguments, factor=1.0):
    """The loss, and its gradient times a factor."""
    leaf = logits.clone().requires_grad_()
    total = loss(leaf, *arguments)
    (total * factor).backward()
    return total.detach(), leaf.grad


# -------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_kl_and_its_gradient_are_those_of_the_dense_form(space, dtype, k):
    logits, known = oracles.random_logits(space, dtype=dtype), pseudo(space, dtype, k=k)
    found, wanted = (slope(loss, logits, *known, factor=-3.7) for loss in (kl, oracles.plain_kl))
    torch.testing.assert_close(found, wanted, **CLOSE[dtype])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("masks_dtype", [torch.uint8, torch.int64])
def test_cross_entropy_and_its_gradient_too(space, dtype, masks_dtype):
    logits, masks = oracles.random_logits(space, dtype=dtype), oracles.random_masks(space, dtype=masks_dtype)
    found, wanted = (slope(loss, logits, masks, factor=2.5) for loss in (cross_entropy, oracles.plain_cross_entropy))
    torch.testing.assert_close(found, wanted, **CLOSE[dtype])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 1), (0.0, 10**6)])
def test_ohem_and_its_gradient_too(space, dtype, threshold, min_kept):
    """Where the bound is the threshold, or all are kept: elsewhere a bin more may be kept, see test_losses."""
    logits, masks = oracles.random_logits(space, dtype=dtype), oracles.random_masks(space, dtype=torch.uint8)
    known = masks, threshold, min_kept
    assert oracles.plain_ohem(logits, *known)[1] > 3
    found, wanted = (slope(loss, logits, *known) for loss in (ohem, plain_ohem))
    torch.testing.assert_close(found, wanted, **CLOSE[dtype])


@pytest.mark.parametrize("space", SPACES)
def test_targets_share_logits_and_gradient(space):
    logits, masks = oracles.random_logits(space, b=6), oracles.random_masks(space, b=1)
    views = [pseudo(space, b=2), pseudo(space, b=3, k=1)]
    factors = torch.tensor([0.3, -2.0, 5.0])
    leaf = logits.clone().requires_grad_()
    sums = divergences(leaf, [true_target(masks), *(fuzzy_target(*view) for view in views)])
    (sums * factors).sum().backward()
    runs = zip((cross_entropy, kl, kl), logits.split([1, 2, 3]), ((masks,), *views), factors, strict=True)
    wanted = [slope(loss, run, *known, factor=factor) for loss, run, known, factor in runs]
    torch.testing.assert_close(sums.detach(), torch.stack([total for total, _ in wanted]))
    torch.testing.assert_close(leaf.grad, torch.cat([gradient for _, gradient in wanted]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_get_the_gradient_of_float32_rounded_once(dtype):
    logits, known = oracles.random_logits((7, 11), dtype=dtype), pseudo((7, 11))
    found, wanted = slope(kl, logits, *known), slope(oracles.plain_kl, logits.float(), *known)
    assert found[1].dtype == dtype
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1].float(), wanted[1], rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_large_logits_lose_nothing():
    logits, masks = oracles.random_logits((7, 11)), oracles.random_masks((7, 11))
    near, far = (slope(cross_entropy, logits.round() + offset, masks) for offset in (0, 1e5))
    torch.testing.assert_close(far, near)


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 3, 1, 2)])
def test_any_layout_of_the_logits(axes):
    """Such as channels last, or a crop of a larger map."""
    full, known = oracles.random_logits((9, 13)), pseudo((7, 11))
    back = [axes.index(axis) for axis in range(4)]
    logits = full.permute(axes).contiguous().permute(back)[..., :7, :11]
    assert not logits.is_contiguous()
    leaf = full.permute(axes).contiguous().requires_grad_()
    kl(leaf.permute(back)[..., :7, :11], *known).backward()
    _, wanted = slope(oracles.plain_kl, logits.contiguous(), *known)
    torch.testing.assert_close(leaf.grad.permute(back)[..., :7, :11], wanted, **CLOSE[torch.float32])
    assert leaf.grad.permute(back)[..., 7:, :].count_nonzero() == 0


def test_gradcheck_over_several_chunks_and_targets():
    logits = oracles.random_logits((3, 4), b=3, dtype=torch.float64).requires_grad_()
    targets = [true_target(oracles.random_masks((3, 4), b=1)), fuzzy_target(*pseudo((3, 4), torch.float64))]
    assert torch.autograd.gradcheck(lambda x: divergences(x, targets), logits)


def test_no_images():
    labels, pixel_weight = pseudo((7, 11))
    none = slope(kl, torch.zeros(0, 5, 7, 11), labels.map(lambda tensor: tensor[:0]), pixel_weight[:0])
    assert none[0] == 0 and none[1].shape == (0, 5, 7, 11)
    masks = torch.zeros(0, 7, 11, dtype=torch.uint8)
    assert slope(ohem, torch.zeros(0, 5, 7, 11), masks, 0.7, 10)[0] == 0


def test_wide_softmax_is_that_of_the_widened_logits():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        logits = oracles.random_logits((7, 11), dtype=dtype)
        due = torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(wide_softmax(logits), logits.to(due).softmax(1), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------- what is not a number


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_nothing_of_an_invalid_pixel_counts(space, poison):
    logits, (labels, pixel_weight) = oracles.random_logits(space), pseudo(space)
    out = ~labels.valid
    bad_labels = replace(labels, values=labels.values.masked_fill(out.unsqueeze(1), poison))
    wanted = slope(kl, logits, labels, pixel_weight)
    found = slope(kl, logits.masked_fill(out.unsqueeze(1), poison), bad_labels, pixel_weight.masked_fill(out, poison))
    assert wanted[0].isfinite() and wanted[1].isfinite().all()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)

    masks = oracles.random_masks(space).masked_fill(out, IGNORE)
    for loss, known in ((cross_entropy, (masks,)), (ohem, (masks, 0.7, 5))):
        wanted = slope(loss, logits, *known)
        assert wanted[0].isfinite() and wanted[0] > 0
        found = slope(loss, logits.masked_fill(out.unsqueeze(1), poison), *known)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_logit_of_a_valid_pixel_shows(poison):
    """The step is skipped for it: even if the pixel weighs 0, and if OHEM could leave it out."""
    logits, (labels, pixel_weight) = oracles.random_logits((7, 11)), pseudo((7, 11))
    valid = torch.ones_like(labels.valid)
    labels, masks = replace(labels, valid=valid), torch.zeros(2, 7, 11, dtype=torch.uint8)
    logits[1, 2, 3, 4] = poison
    known = {kl: (labels, pixel_weight), cross_entropy: (masks,), ohem: (masks, 0.01, 1)}
    for loss, arguments in known.items():
        total, gradient = slope(loss, logits, *arguments)
        assert not total.isfinite() and not gradient[1, :, 3, 4].isfinite().all()
    if poison != poison:
        assert not kl(logits, labels, torch.zeros_like(pixel_weight)).isfinite()


def test_all_invalid():
    logits, (labels, pixel_weight) = oracles.random_logits((7, 11)), pseudo((7, 11))
    total, gradient = slope(kl, logits * torch.nan, replace(labels, valid=labels.valid & False), pixel_weight)
    assert total == 0 and (gradient == 0).all()


def test_the_gradient_can_be_asked_for_twice_but_has_none_itself():
    leaf = oracles.random_logits((7, 11)).requires_grad_()
    total = kl(leaf, *pseudo((7, 11)))
    first, second = (torch.autograd.grad(total, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(total.square(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --------------------------------------------------------------------------------------------------------- memory

CASES = ["kl", "ohem"]


def known_to(case, b, c, size):
    """What a loss is told besides the logits, and the two ways to compute it."""
    draw = torch.Generator().manual_seed(1)
    if case == "ohem":
        masks = torch.randint(0, c, (b, size, size), generator=draw, dtype=torch.uint8)
        return (masks, 0.7, 200), (ohem, plain_ohem)
    values, classes = torch.rand(b, c, size, size, generator=draw).topk(3, dim=1)
    labels, _ = pseudo((1,))
    share = torch.rand(b, size, size, generator=draw)
    labels = replace(labels, values=values / values.sum(1, keepdim=True), classes=classes)
    return (replace(labels, confidence=share, entropy=share, valid=share > 0.1), share), (kl, oracles.plain_kl)


def peaks(case, b, c, size):
    """Bytes above the logits, in units of the logits: in chunks, and plainly. The gradients are compared as well."""
    known, losses = known_to(case, b, c, size)
    logits = torch.randn(b, c, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, gradients = [], []
    for loss in losses:
        highest, (gradient,) = peak(lambda loss=loss: torch.autograd.grad(loss(logits, *known), logits))
        found.append(highest / (4 * logits.numel()))
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    return found


def test_the_meter_counts_what_is_known():
    def known():
        one, other = torch.empty(1000), torch.empty(500)
        del one
        return torch.empty(1000), other

    assert peak(known)[0] == 4 * 1500
    half = torch.zeros(1000, dtype=torch.bfloat16)
    assert peak(lambda: half.float().exp_().sum())[0] >= 4 * 1000
    leaf = torch.zeros(1000).requires_grad_()  # what exp gives is kept, the gradient comes on top
    assert 8000 <= peak(lambda: torch.autograd.grad(leaf.exp().sum(), leaf))[0] <= 8000 + 64


@pytest.mark.parametrize("case", CASES)
def test_memory_is_a_third_of_the_plain_form(monkeypatch, case):
    """At a sixteenth of the size that is aimed at, with chunks that are smaller in proportion."""
    monkeypatch.setattr(chunks, "CPU_VALUES", chunks_at(129))
    ours, plain = peaks(case, 4, 19, 129)
    assert plain >= 2.9  # the oracle is no straw man, but is not in chunks either
    assert ours <= 0.35 * plain
    assert 1 <= ours <= 1.11  # the gradient, and less than another channel and a mask in int64


def chunks_at(size, real=2**18):
    """Values per chunk that have the share at `size` that `real` ones have at 801."""
    return real * size**2 // 801**2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_memory_at_full_size(monkeypatch, case):
    monkeypatch.undo()
    ours, plain = peaks(case, 4, 19, 801)
    assert ours <= 0.35 * plain


def test_all_losses_of_a_batch_share_one_gradient(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", chunks_at(129))
    (masks, *_), _ = known_to("ohem", 2, 19, 129)
    (labels, omega), _ = known_to("kl", 2, 19, 129)
    logits = torch.randn(4, 19, 129, 129).requires_grad_()

    def step():
        return torch.autograd.grad(divergences(logits, [true_target(masks), fuzzy_target(labels, omega)]).sum(), logits)

    assert peak(step)[0] <= 1.11 * 4 * logits.numel()


def test_half_logits_are_not_widened_as_a_whole(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", chunks_at(129))
    known, _ = known_to("kl", 4, 19, 129)
    logits = torch.randn(4, 19, 129, 129).bfloat16().requires_grad_()
    highest, _ = peak(lambda: torch.autograd.grad(kl(logits, *known), logits))
    assert highest <= 1.25 * 2 * logits.numel()


def test_stages_need_little_besides_their_results(monkeypatch):
    monkeypatch.setattr(chunks, "CPU_VALUES", chunks_at(129))
    probs = torch.rand(4, 19, 129, 129).softmax(1)
    pixel = probs[:, 0].numel()
    assert peak(lambda: top_classes(probs, 3))[0] <= 1.1 * 3 * (4 + 8) * pixel
    assert peak(lambda: normalized_entropy(probs))[0] <= 4 * 4 * pixel
