"""The methods that are shipped as overlays: their loss through the learner, against published formulas and numbers."""

from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

import farcluss
from farcluss.data.base import IGNORE
from farcluss.learning.batches import Batch, split
from farcluss.learning.build import build_stages
from farcluss.learning.learner import Learner
from farcluss.networks.base import Perturbation, Prediction
from farcluss.networks.dpt import dpt
from farcluss.networks.normalize import Normalize
from farcluss.recipes.model import Stages
from farcluss.recipes.reading import load_recipe, recipe_folder
from farcluss.stages.augment import Identity
from farcluss.stages.mix import NoMix

METHODS = sorted(path.stem for path in (recipe_folder() / "methods").glob("*.toml"))


class Given(nn.Module):
    """A network whose logits are given, whatever it sees; it notes what perturbs them."""

    points = {"encoder": (3,)}

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.perturbations = nn.Parameter(logits), []

    def forward(self, images: torch.Tensor, perturbation: Perturbation | None = None) -> Prediction:
        assert len(images) == len(self.logits)
        self.perturbations.append(perturbation)
        return Prediction(self.logits, None)


class Copies(Identity):
    """Several views, all equal to the weak one but for the shares of their images."""

    def __init__(self, views: int, shares: torch.Tensor | None = None) -> None:
        super().__init__()
        self.shares = [None] * views if shares is None else shares

    def strong(self, scene):
        return tuple(scene.weak._replace(share=share) for share in self.shares)


def unsupervised(method, teacher, student, valid, views=1, perturbed=0, mix=None, shares=None):
    """The unsupervised loss of a method: logits `(B, C, *S)` of the teacher, `(V B, C, *S)` of the student."""
    recipe = load_recipe("quickstart", [method])
    stages = with_fields(build_stages(recipe), augment=Copies(views, shares), **({} if mix else {"mix": NoMix()}))
    b, classes, *size = teacher.shape
    labeled = torch.zeros(b, classes, *size, dtype=student.dtype)
    networks = Given(torch.cat([labeled, student])), Given(teacher)
    learner = Learner(*networks, stages, Normalize([0.0], [1.0]), recipe.loss, classes)
    images = torch.arange(b, dtype=torch.float64).view(-1, 1, *[1] * len(size)).expand(-1, 1, *size)
    batch = Batch(images, torch.full((b, *size), IGNORE, dtype=torch.uint8), images, valid)
    made, statistics = learner.pseudo_label(batch)
    assert len(made) == views + perturbed and [view.drawn is not None for view in made[views:]] == [True] * perturbed
    loss = learner.losses(batch, made, learner.totals(statistics, made), 1.0)["unsupervised"]
    return loss.item() * recipe.loss.unsupervised, made


def line(rows):
    """Values of pixels in a row, one list per class, as `(1, C, 1, N)`."""
    return torch.tensor(rows, dtype=torch.float64).view(1, len(rows), 1, -1)


def sure_of(classes, confidence, c=2):
    """Logits of a teacher that gives a class with a confidence, the others the same, pixel by pixel in a row."""
    probs = torch.full((len(classes), c), 0.0, dtype=torch.float64)
    for pixel, (label, p) in enumerate(zip(classes, confidence, strict=True)):
        probs[pixel] = (1 - p) / (c - 1)
        probs[pixel, label] = p
    return probs.log().T.reshape(1, c, 1, -1)


def losing(classes, losses, c=2):
    """Logits whose cross-entropy with the classes is as given, pixel by pixel in a row."""
    return sure_of(classes, np.exp(-np.array(losses)), c)


def of_entropy(entropy):
    """The larger of two probabilities with a normalized entropy."""
    return brentq(lambda p: -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) - entropy, 0.5, 1 - 1e-12)


def cells(*values):
    return torch.tensor(values, dtype=torch.bool).view(1, 1, -1)


def test_fixmatch_of_known_numbers():
    teacher = sure_of([0, 1, 0, 1], [0.97, 0.96, 0.5 + 1e-9, 0.99])
    student = line([[2, 0, 1, 3], [0, 1, 1, 0]])
    found, _ = unsupervised("fixmatch", teacher, student, cells(1, 1, 1, 0))
    assert found == pytest.approx(0.1467298995, abs=1e-8)


def test_unimatch_of_known_numbers():
    teacher = sure_of([0, 1, 1, 0], [0.99, 0.96, 0.80, 0.97])
    first, second, features = [[2, 0, 0, 0], [0, 1, 0, 0]], [[1, 0, 3, 0], [0] * 4], [[0, 0, 0, 9], [0, 2, 0, 0]]
    student = torch.cat([line(rows) for rows in (first, second, features)])
    found, _ = unsupervised("unimatch", teacher, student, cells(1, 1, 1, 0), views=2, perturbed=1)
    assert (0.4 + found) / 2 == pytest.approx(0.328615, abs=1e-6)  # with a supervised loss of 0.4


def test_cutmix_seg_of_known_numbers():
    teacher, student = line([[0.9, 0.99], [0.1, 0.01]]).log(), line([[0.6, 0.7], [0.4, 0.3]]).log()
    found, _ = unsupervised("cutmix_seg", teacher, student, cells(1, 1))
    assert found == pytest.approx(0.08705, abs=1e-7)


def test_u2pl_of_known_numbers():
    confidence = [of_entropy(entropy) for entropy in (0.1, 0.2, 0.3, 0.4, 0.5)]
    teacher, student = sure_of([0] * 5, confidence), losing([0] * 5, [1, 2, 3, 4, 5])
    found, _ = unsupervised("u2pl_loss", teacher, student, cells(1, 1, 1, 1, 1))
    assert found == pytest.approx(3.125, abs=1e-6)


def test_cw_bass_of_known_numbers():
    teacher, student = sure_of([0, 0, 1], [0.9, 0.5, 0.2], c=7), losing([0, 0, 1], [1, 2, 3], c=7)
    found, _ = unsupervised("cw_bass", teacher, student, cells(1, 1, 1))
    assert found == pytest.approx(1.95, abs=1e-6)


def softmax(logits):
    """Over axis 1, in NumPy."""
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(6, 7), (3, 4, 5)])
@pytest.mark.parametrize("method", ["fixmatch", "unimatch"])
def test_losses_of_mixed_views_are_the_published_formula(method, size):
    """Boxes, shares, divisors, pixels that do not count; what was mixed is read off the images."""
    rng, b, c = np.random.default_rng(0), 4, 3
    teacher = torch.from_numpy(rng.normal(0, 3, (b, c, *size)))
    shares = [1.0] if method == "fixmatch" else [0.25, 0.25, 0.5]
    student = torch.from_numpy(rng.normal(0, 2, (len(shares) * b, c, *size)))
    valid = torch.from_numpy(rng.random((b, *size)) < 0.8)
    mixed = len(shares[:2])
    torch.manual_seed(3)
    found, views = unsupervised(method, teacher, student, valid, mixed, len(shares) - mixed, mix=True)
    probs, wanted, boxes = softmax(teacher.numpy()), 0.0, 0
    place = np.indices((b, *size))
    for share, view, logits in zip(shares, views, student.chunk(len(shares)), strict=True):
        source = view.images[:, 0].numpy().round().astype(int)  # the image that each pixel came from
        boxes += (source != place[0]).sum()
        at = (source, *place[1:])
        classes, sure, counts = probs.argmax(1)[at], probs.max(1)[at], valid.numpy()[at]
        losses = -np.log(np.take_along_axis(softmax(logits.numpy()), classes[:, None], 1))[:, 0]
        wanted += share * (losses * (sure >= 0.95) * counts).sum() / counts.sum()
    assert boxes and found == pytest.approx(wanted, rel=1e-6)


def test_half_of_the_loss_is_half_of_the_rate_with_twice_the_decay():
    """As recipes say it in [with.fixmatch]: the same weights, in exact arithmetic, for SGD with momentum."""
    found = []
    for lr, decay, factor in ((0.1, 0.01, 0.5), (0.05, 0.02, 1.0)):
        weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=decay)
        for step in range(5):
            optimizer.zero_grad()
            (factor * (weight * weight.new_tensor([step, 1.0])).sin().sum()).backward()
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found, rtol=1e-14, atol=0)


def weights_of(method, probs, valid):
    """The weight of each pixel in the first step, by the formulas of the authors."""
    sure, classes, number = probs.max(1), probs.argmax(1), probs.shape[1]
    known = sure[valid]
    if method == "softmatch":
        mean, variance = 0.999 / number + 0.001 * known.mean(), 0.999 + 0.001 * known.var(ddof=1)
        return np.exp(-(np.minimum(sure - mean, 0) ** 2) * 4 / (2 * variance))
    if method == "freematch":
        tau = 0.999 / number + 0.001 * known.mean()
        means = [0.999 / number + 0.001 * (known * (classes[valid] == c)).mean() for c in range(number)]
        return sure >= tau * np.array(means)[classes] / max(means)
    return (known >= 0.968).mean() if method == "classmix" else sure >= 0.95


@pytest.mark.parametrize(
    ("method", "views", "perturbed"),
    [("softmatch", 1, 0), ("freematch", 1, 0), ("classmix", 1, 0), ("augseg", 1, 0), ("daw", 2, 1), ("imas", 2, 0)],
)
def test_losses_of_the_first_step_are_the_published_formula(method, views, perturbed):
    """Weights, divisors, shares of views and images, and pixels that do not count."""
    rng, b, c, size = np.random.default_rng(1), 3, 4, (5, 6)
    teacher = torch.from_numpy(rng.normal(0, 3, (b, c, *size)))
    student = torch.from_numpy(rng.normal(0, 2, ((views + perturbed) * b, c, *size)))
    valid = rng.random((b, *size)) < 0.8
    shares = (
        rng.random((2, b))
        if method == "imas"
        else np.array({1: [[1.0]], 3: [[0.25], [0.25], [0.5]]}[len(student) // b])
    )
    given = torch.from_numpy(shares).float() if method == "imas" else None
    found, _ = unsupervised(method, teacher, student, torch.from_numpy(valid), views, perturbed, shares=given)
    probs, wanted = softmax(teacher.numpy()), 0.0
    for share, logits in zip(shares, student.numpy().reshape(-1, b, c, *size), strict=True):
        losses = -np.log(np.take_along_axis(softmax(logits), probs.argmax(1)[:, None], 1))[:, 0]
        weighted = losses * weights_of(method, probs, valid) * valid * share.reshape(-1, 1, 1)
        wanted += weighted.sum() / (valid.size if method in ("classmix", "augseg", "imas") else valid.sum())
    assert wanted > 0 and found == pytest.approx((3 if method == "imas" else 1) * wanted, rel=1e-5)


HALVED = ["fixmatch", "unimatch", "daw", "softmatch", "freematch"]


@pytest.mark.parametrize("recipe", ["voc_r101_92", "voc_blended321_r50_1_8", "cityscapes_r50_1_4"])
@pytest.mark.parametrize("method", HALVED)
def test_recipes_halve_the_loss_of_methods_that_do(recipe, method):
    alone, together = (load_recipe(recipe, names) for names in ([], [method]))
    assert (together.train.lr, together.train.weight_decay) == (alone.train.lr / 2, alone.train.weight_decay * 2)
    if "threshold" in OVERLAYS[method]:
        threshold = 0.0 if "cityscapes" in recipe else 0.95
        assert together.stages.weight.options["threshold"] == threshold
    assert load_recipe(recipe, [method], ["train.lr=0.3"]).train.lr == 0.3


CUT = {"name": "cutmix", "p": 0.5, "law": "uniform", "area": [0.02, 0.4], "aspect": [0.3, 3.3333]}
SURE = {"name": "threshold", "threshold": 0.95}
FEATURES, THIRDS = {"name": "feature-dropout", "p": 0.5}, [0.25, 0.25, 0.5]
OVERLAYS = {
    "fixmatch": {"mix": CUT, "weight": SURE, "threshold": 0.95, "ema": 0.0},
    "cutmix_seg": {
        "mix": {"name": "cutmix", "p": 1.0, "area": [0.5, 0.5], "aspect": [0.5, 2.0]},
        "pseudo_label": {"name": "fuzzy", "top_k": 255},
        "weight": {"name": "sure-share", "threshold": 0.97},
        "divergence": "squared", "divisor": "all", "ema": 0.99, "ema_ramp": False,
    },
    "unimatch": {"mix": CUT, "weight": SURE, "threshold": 0.95, "perturb": FEATURES, "shares": THIRDS, "ema": 0.0},
    "unimatch_v2": {
        "mix": CUT | {"partner": "reverse"}, "weight": SURE, "shares": [0.5, 0.5], "ema": 0.996,
        "perturb": {"name": "complementary-dropout", "unchanged": 0.5},
    },
    "augseg": {
        "augment": {"name": "random-operations", "most": 3}, "mix": {"name": "adaptive-cutmix"}, "weight": SURE,
        "divisor": "all", "ema": 0.999,
    },
    "imas": {
        "augment": {"name": "by-agreement", "threshold": 0.95}, "mix": {"name": "none"}, "weight": SURE, "lambda": 3.0,
        "divisor": "all", "shares": [1.0, 1.0], "ema": 0.996,
    },
    "classmix": {
        "mix": {"name": "classmix"}, "weight": {"name": "sure-share", "threshold": 0.968},
        "divisor": "all", "ema": 0.99,
    },
    "cw_bass": {
        "augment": {"name": "identity"}, "mix": {"name": "none"}, "weight": {"name": "dynamic-threshold"},
        "ema": 0.999, "ema_ramp": False,
    },
    "daw": {
        "mix": CUT, "perturb": FEATURES, "pseudo_label": {"name": "aligned"}, "weight": {"name": "crossing-threshold"},
        "shares": THIRDS, "ema": 0.0,
    },
    "softmatch": {"mix": CUT, "weight": {"name": "soft-threshold"}, "ema": 0.0},
    "freematch": {"mix": CUT, "weight": {"name": "class-thresholds"}, "ema": 0.0},
    "u2pl_loss": {
        "augment": {"name": "identity"}, "mix": {"name": "cutmix", "p": 0.5, "law": "half"}, "divisor": "kept",
        "weight": {"name": "lowest-entropy", "dropped": 0.2, "scaled": True}, "ema": 0.99,
    },
}  # fmt: skip
"""What the authors' code sets, by the notes on it; else hard labels, a weight of 1 and the divisor of valid pixels."""


@pytest.mark.parametrize("method", OVERLAYS)
def test_overlays_set_what_the_authors_do(method):
    wanted, recipe = OVERLAYS[method], load_recipe("quickstart", [method])
    kinds = {"perturb": {"name": "none"}, "pseudo_label": {"name": "hard"}, "rebalance": {"name": "uniform"},
             "contrast": {"name": "none"}}  # fmt: skip
    kinds |= {kind: part for kind, part in wanted.items() if kind in Stages.model_fields}
    for kind, part in kinds.items():
        chosen = getattr(recipe.stages, kind)
        assert {"name": chosen.name, **chosen.options} == part
    loss, train = recipe.loss, recipe.train
    assert loss.unsupervised == wanted.get("lambda", 1.0) and loss.contrastive == 0
    assert (loss.divergence, loss.divisor) == (wanted.get("divergence", "kl"), wanted.get("divisor", "valid"))
    assert (loss.view_shares and list(loss.view_shares)) == wanted.get("shares")
    assert (train.ema, train.ema_ramp) == (wanted["ema"], wanted.get("ema_ramp", True))


def test_overlays_of_cityscapes_set_what_the_authors_do_there():
    augseg, imas = (load_recipe("cityscapes_r50_1_4", [method]) for method in ("augseg", "imas"))
    assert (augseg.stages.weight.options["threshold"], augseg.train.ema) == (0.0, 0.996)
    assert imas.stages.augment.options["threshold"] == imas.stages.weight.options["threshold"] == 0.7


@pytest.mark.parametrize("room", ["learning", "training", "networks", "inference", "runs"])
def test_no_room_knows_a_method(room):
    """A method is words in slots: outside of the stages none is named, but for those that are ordinary words."""
    names = [name for name in METHODS if name not in ("supervised", "mean_teacher", "farcluss", "farcluss_plus")]
    assert len(names) > 10
    for path in (Path(farcluss.__file__).parent / room).glob("*.py"):
        text = path.read_text(encoding="utf-8").lower().replace("_", "").replace("-", "")
        assert not [name for name in names if name.replace("_", "") in text], path


@pytest.mark.parametrize(("method", "images"), [("unimatch", 8), ("cw_bass", 4), ("imas", 8), ("fixmatch", 6)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_frozen_encoder_sees_equal_images_once(method, images, micro_batches):
    """Of two labeled and two unlabeled images; the losses are those of networks that encode again."""
    recipe = load_recipe("quickstart", [method])
    torch.manual_seed(0)
    batch = Batch(torch.rand(2, 3, 32, 32), torch.randint(0, 6, (2, 32, 32)).byte(), torch.rand(2, 3, 32, 32),
                  torch.ones(2, 32, 32, dtype=torch.bool))  # fmt: skip
    found = []
    for keeps in (True, False):
        torch.manual_seed(1)
        student, teacher = (dpt(3, 6, 0, False, encoder="test_vit", features=8, frozen=True) for _ in range(2))
        teacher.load_state_dict(student.state_dict())
        seen = []
        for network in (student, teacher.eval()):
            network.frozen = keeps
            network.encoder.patch_embed.register_forward_hook(lambda module, given, _, s=seen: s.append(len(given[0])))
        learner = Learner(student, teacher, build_stages(recipe), Normalize([0.5] * 3, [0.25] * 3), recipe.loss, 6)
        losses = []
        for _ in range(2):  # steps: what the first one has seen does not matter
            views, statistics = learner.pseudo_label(batch, micro_batches)
            totals = learner.totals(statistics, views)
            losses.append(
                sum(learner.losses(*part, totals, 1.0)["total"] for part in split(batch, views, micro_batches))
            )
        found.append((sum(seen), torch.stack(losses)))
    assert found[0][0] == 2 * images < found[1][0] or (method == "fixmatch" and found[0][0] == found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
