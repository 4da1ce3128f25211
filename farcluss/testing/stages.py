"""Testers of the stage kinds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from farcluss.plugins.signatures import REQUIRED, describe_object
from farcluss.stages.base import (
    Anchors,
    Contrast,
    ContrastLoss,
    FuzzyLabels,
    PixelWeight,
    PseudoLabel,
)
from farcluss.testing.values import (
    SIZES,
    as_volume,
    expect_between,
    expect_like,
    expect_same,
    hard_cases,
    random_labels,
    random_probs,
    seeded,
    shuffle_invalid,
    tensors_of,
)


class StageTester:
    """Base of the testers of all stage kinds; subclass one of those below.

    Attributes:
        stage: the stage class, or a function that returns the stage.
        options: its options, as in a recipe.
        dims: numbers of spatial axes that it supports.
        classes: number of classes C to test with.
    """

    stage: ClassVar[Callable[..., nn.Module]]
    options: ClassVar[dict[str, Any]] = {}
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    classes: ClassVar[int] = 5
    kind: ClassVar[type[nn.Module]]
    """Set by the tester: the contract class of the stage kind."""

    def build(self) -> Any:
        """A new stage, with options validated as in a recipe."""
        valid, wrong = describe_object(type(self).stage).check("stage", self.options)
        assert not wrong, f"options are invalid: {wrong}"
        return type(self).stage(**valid)

    def inputs(self, *size: int) -> tuple[Any, ...]:
        """Arguments of a call with images of `size`; needs a seeded generator."""
        raise NotImplementedError

    def call(self, stage: Any, inputs: tuple[Any, ...]) -> Any:
        """Everything the stage computes from `inputs`."""
        return stage(*inputs)

    def test_is_of_its_kind(self) -> None:
        """The stage derives from its contract class."""
        stage = self.build()
        assert isinstance(stage, self.kind), (
            f"{type(stage).__name__} is not a farcluss.stages.base.{self.kind.__name__}"
        )

    def test_options_are_documented(self) -> None:
        """Every option has a default and a text in an `Args:` block, which `farcluss plugins show` prints."""
        for name, option in describe_object(type(self).stage).options.items():
            assert option.default is not REQUIRED, f"option {name} has no default"
            assert option.help, f"option {name} has no line in the Args: block of the docstring"

    def test_state_dict_round_trip(self) -> None:
        """A used stage and its copy by state dict return the same results."""
        for dim in self.dims:
            stage, copy = self.build(), self.build()
            inputs = seeded(self.inputs, *SIZES[dim])
            seeded(self.call, stage, inputs, seed=1)
            copy.load_state_dict(stage.state_dict())
            wanted, found = (seeded(self.call, one, inputs, seed=2) for one in (stage, copy))
            expect_same("after load_state_dict; keep state in buffers", found, wanted)

    def test_does_not_change_its_input(self) -> None:
        """A call does not modify its inputs."""
        for dim in self.dims:
            inputs = seeded(self.inputs, *SIZES[dim])
            before = [tensor.detach().clone() for tensor in tensors_of(inputs)]
            seeded(self.call, self.build(), inputs)
            same = all(torch.equal(a, b) for a, b in zip(tensors_of(inputs), before, strict=True))
            assert same, f"the stage modifies its input ({dim}-D)"


class PixelStageTester(StageTester):
    """A stage that treats every pixel alike, independent of its position."""

    def test_two_d_equals_three_d(self) -> None:
        """A volume of one slice gives the same result as an image."""
        if {2, 3} <= set(self.dims):
            inputs = seeded(self.inputs, *SIZES[2])
            image = seeded(self.call, self.build(), inputs, seed=1)
            volume = seeded(self.call, self.build(), as_volume(inputs), seed=1)
            for a, b in zip(tensors_of(image), tensors_of(volume), strict=True):
                expect_same("(B, C, 1, H, W) against (B, C, H, W)", b.reshape(a.shape), a)


class PseudoLabelTester(PixelStageTester):
    """Tests of a pseudo-label stage."""

    kind = PseudoLabel

    def inputs(self, *size: int) -> tuple[Any, ...]:
        """`probs` `(2, C, *S)`."""
        return (random_probs(2, self.classes, *size),)

    def test_shapes_and_dtypes(self) -> None:
        """`(B, C, *S)` to float32 values and int64 classes `(B, K, *S)`, K at most C."""
        for dim in self.dims:
            for classes in (2, self.classes):
                labels = seeded(self.build(), seeded(random_probs, 2, classes, *SIZES[dim]))
                assert isinstance(labels, FuzzyLabels), f"the result is a {type(labels).__name__}, not FuzzyLabels"
                kept = labels.values.shape[1]
                assert 1 <= kept <= classes, f"{kept} classes are kept of {classes}"
                expect_like("values", labels.values, (2, kept, *SIZES[dim]), torch.float32)
                expect_like("classes", labels.classes, (2, kept, *SIZES[dim]), torch.int64)

    def test_contract(self) -> None:
        """Values sum to 1 and descend; classes are in range and distinct."""
        if 2 not in self.dims:
            return
        for name, probs in {"random": seeded(random_probs, 2, self.classes, 6, 8), **hard_cases(self.classes)}.items():
            values, classes = seeded(self.build(), probs)
            expect_between(f"sum of values, {name} probabilities", values.sum(1), 1, 1)
            expect_between(f"values, {name} probabilities", values, 0, 1)
            assert (values.diff(dim=1) <= 1e-6).all(), f"values do not descend along K ({name} probabilities)"
            expect_between(f"classes, {name} probabilities", classes, 0, self.classes - 1)
            assert (classes.sort(1).values.diff(dim=1) > 0).all(), f"a class is kept twice ({name} probabilities)"


class PixelWeightTester(PixelStageTester):
    """Tests of a stage of kind `weight` or `rebalance`.

    Attributes:
        largest: largest factor on a pixel; None for no limit.
    """

    kind = PixelWeight
    largest: ClassVar[float | None] = None

    def inputs(self, *size: int) -> tuple[Any, ...]:
        """Pseudo-labels of two images."""
        return (random_labels(2, self.classes, *size),)

    def call(self, stage: Any, inputs: tuple[Any, ...]) -> Any:
        """Factors of valid pixels, in two steps on the same labels, so that state counts."""
        (labels,) = inputs
        found = []
        for _ in range(2):
            summed = stage.statistics(labels, self.classes)
            stage.absorb(summed)
            found.append(torch.where(labels.valid, stage.pixels(labels, summed), 0))
        return tuple(found)

    def test_shapes_and_dtypes(self) -> None:
        """Factors float32 `(B, *S)`; figures are tensors."""
        for dim in self.dims:
            stage = self.build()
            for pixels in seeded(self.call, stage, seeded(self.inputs, *SIZES[dim])):
                expect_like("factors", pixels, (2, *SIZES[dim]), torch.float32)
            (labels,) = seeded(self.inputs, *SIZES[dim])
            figures = stage.figures(stage.statistics(labels, self.classes))
            assert all(isinstance(value, Tensor) for value in figures.values()), "figures are no tensors"

    def test_contract(self) -> None:
        """Factors are finite and 0 or more, also where classes are absent or no pixel is valid."""
        for dim in self.dims:
            labels = seeded(random_labels, 2, self.classes, *SIZES[dim])
            few = seeded(random_labels, 2, 2, *SIZES[dim])
            none = replace(labels, valid=labels.valid & False)
            for name, case in {"all classes": labels, "two classes": few, "no valid pixel": none}.items():
                for pixels in seeded(self.call, self.build(), (case,)):
                    assert pixels.isfinite().all(), f"factors are not finite: {name}"
                    expect_between(f"factors, {name}", pixels, 0, self.largest or float("inf"))

    def test_statistics_add_up(self) -> None:
        """Statistics of a batch are the sum of its images': micro-batches and processes do not matter."""
        for dim in self.dims:
            stage = self.build()
            labels = seeded(random_labels, 2, self.classes, *SIZES[dim])
            parts = [stage.statistics(labels.map(lambda t, i=i: t[i : i + 1]), self.classes) for i in (0, 1)]
            expect_same("sum of the images' statistics", sum(parts), stage.statistics(labels, self.classes))

    def test_labeled_statistics_add_up(self) -> None:
        """So do the statistics of labeled images, if the stage has some; and they are absorbed."""
        for dim in self.dims:
            stage, shape = self.build(), (2, *SIZES[dim])
            logits = seeded(torch.randn, 2, self.classes, *SIZES[dim])
            masks, known = seeded(torch.randint, self.classes, shape), seeded(torch.rand, shape) < 0.8
            whole = stage.labeled_statistics(logits, masks, known)
            if whole is not None:
                rows = [slice(0, 1), slice(1, 2), slice(0, 0)]
                parts = [stage.labeled_statistics(logits[row], masks[row], known[row]) for row in rows]
                expect_same("sum of the labeled images' statistics", sum(parts), whole)
                stage.absorb_labeled(whole)
                assert all(buffer.isfinite().all() for buffer in stage.buffers()), "buffers are not finite"

    def test_parts_of_a_batch(self) -> None:
        """Factors of some images do not depend on which others are weighed with them."""
        for dim in self.dims:
            stage = self.build()
            (labels,) = seeded(self.inputs, *SIZES[dim])
            summed = stage.statistics(labels, self.classes)
            stage.absorb(summed)
            parts = [stage.pixels(labels.map(lambda t, i=i: t[i : i + 1]), summed) for i in (0, 1)]
            expect_same("factors of single images", torch.cat(parts), stage.pixels(labels, summed))

    def test_invalid_pixels_do_not_matter(self) -> None:
        """What an invalid pixel holds changes no factor of a valid one."""
        for dim in self.dims:
            (labels,) = seeded(self.inputs, *SIZES[dim])
            other = seeded(shuffle_invalid, labels, self.classes, seed=1)
            wanted, found = (seeded(self.call, self.build(), (case,)) for case in (labels, other))
            expect_same("with other contents at invalid pixels", found, wanted)


class ContrastTester(PixelStageTester):
    """Tests of a contrast stage."""

    kind = Contrast

    def inputs(self, *size: int) -> tuple[Any, ...]:
        """Embeddings `(2, D, *S)`, their anchors, and C."""
        shape = (2, *size)
        labeled = torch.zeros(shape, dtype=torch.bool)
        labeled[0] = True
        confidence = torch.where(labeled, torch.ones(shape), torch.rand(shape) ** 0.1)
        classes, valid = torch.randint(self.classes, shape), torch.rand(shape) < 0.8
        anchors = Anchors(classes, confidence, torch.where(labeled, 1.0, torch.rand(shape)), valid, labeled)
        return torch.randn(2, self.build().dim or 8, *size), anchors, self.classes

    def test_shapes_and_dtypes(self) -> None:
        """Two finite float32 scalars."""
        for dim in self.dims:
            result = seeded(self.call, self.build(), seeded(self.inputs, *SIZES[dim]))
            assert isinstance(result, ContrastLoss), f"the result is a {type(result).__name__}, not ContrastLoss"
            expect_like("loss", result.loss, (), torch.float32)
            expect_like("prototype_cosine", result.prototype_cosine, (), torch.float32)
            expect_between("prototype_cosine", result.prototype_cosine, -1, 1)

    def test_contract(self) -> None:
        """The loss has a finite gradient, which is not 0 if pixels are confident."""
        for dim in self.dims:
            stage = self.build()
            embeddings, anchors, classes = seeded(self.inputs, *SIZES[dim])
            sure = anchors._replace(
                confidence=torch.ones_like(anchors.confidence), weight=torch.ones_like(anchors.weight)
            )
            gradient = self.gradient(stage, embeddings, sure, classes)[1]
            assert gradient.isfinite().all(), "the gradient is not finite"
            assert not stage.dim or gradient.abs().sum() > 0, "confident pixels get no gradient"

    def test_zero_without_confident_pixels(self) -> None:
        """With no confident or no valid pixel the loss is 0 and still has a graph."""
        for dim in self.dims:
            embeddings, anchors, classes = seeded(self.inputs, *SIZES[dim])
            zero, never = torch.zeros_like(anchors.weight), torch.zeros_like(anchors.valid)
            unsure = anchors._replace(confidence=zero, weight=zero, labeled=never)
            for name, case in {"no confident pixel": unsure, "no valid pixel": anchors._replace(valid=never)}.items():
                loss, gradient = self.gradient(self.build(), embeddings, case, classes)
                assert loss == 0, f"the loss is {float(loss)}, not 0, with {name}"
                assert (gradient == 0).all(), f"the gradient is not 0 with {name}"

    def test_invalid_pixels_do_not_matter(self) -> None:
        """What an invalid pixel holds does not change the loss."""
        for dim in self.dims:
            embeddings, anchors, classes = seeded(self.inputs, *SIZES[dim])
            valid = anchors.valid
            changed = anchors._replace(
                classes=torch.where(valid, anchors.classes, 0),
                confidence=torch.where(valid, anchors.confidence, 1.0),
            )
            moved = torch.where(valid.unsqueeze(1), embeddings, 3.0)
            wanted = seeded(self.call, self.build(), (embeddings, anchors, classes))
            found = seeded(self.call, self.build(), (moved, changed, classes))
            expect_same("with other contents at invalid pixels", found, wanted)

    def test_labeled_pixels_do_not_matter_unless_included(self) -> None:
        """Without `include_labeled`, what labeled pixels hold does not change the loss: they may be left out."""
        for dim in self.dims:
            stage = self.build()
            if stage.include_labeled:
                continue
            embeddings, anchors, classes = seeded(self.inputs, *SIZES[dim])
            moved = torch.where(anchors.labeled.unsqueeze(1), 3.0, embeddings)
            wanted, found = (seeded(self.call, stage, (e, anchors, classes)) for e in (embeddings, moved))
            expect_same("with other contents at labeled pixels, although include_labeled is False", found, wanted)

    def gradient(self, stage: Any, embeddings: Tensor, anchors: Anchors, classes: int) -> tuple[Tensor, Tensor]:
        """Loss, and its gradient with respect to the embeddings."""
        leaf = embeddings.clone().requires_grad_()
        loss = seeded(self.call, stage, (leaf, anchors, classes)).loss
        assert loss.requires_grad, "the loss has no graph back to the embeddings"
        loss.backward()
        assert leaf.grad is not None, "the loss does not reach the embeddings"
        return loss.detach(), leaf.grad
