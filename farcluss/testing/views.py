"""Testers of the stage kinds that make views."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from farcluss.stages.base import Augment, Mix, Perturb, PseudoLabels, Scene, View
from farcluss.testing.stages import StageTester
from farcluss.testing.values import SIZES, expect_between, expect_like, expect_same, seeded, tensors_of


class _ViewTester(StageTester):
    """Tests of a stage that makes views of a scene.

    Attributes:
        channels: image channels Cin to test with.
    """

    channels: ClassVar[int] = 3

    def inputs(self, *size: int) -> tuple[Any, ...]:
        """A scene of four unlabeled and four labeled images in [0, 1]; sides four times those of `SIZES`."""
        size = tuple(4 * side for side in size)
        images, labeled = torch.rand(4, self.channels, *size), torch.rand(4, self.channels, *size)
        masks = torch.where(torch.rand(4, *size) < 0.5, 1, 3).to(torch.uint8)
        known = torch.rand(4, *size) < 0.8
        return (Scene(View(images, self.labels(torch.rand(4, *size) < 0.8)), labeled, masks, known, 5),)

    def labels(self, valid: Tensor) -> PseudoLabels:
        """Labels whose confidence and entropy encode the class; only classes 1 and 3 occur."""
        classes = torch.where(seeded(torch.rand, valid.shape) < 0.5, 1, 3)
        values = torch.stack([classes / 5 + 0.3, 0.7 - classes / 5], 1)
        return PseudoLabels(values, torch.stack([classes, 4 - classes], 1), classes / 5, classes / 4, valid)

    def views(self, stage: Any, scene: Scene) -> tuple[View, ...]:
        """The views that the stage makes."""
        raise NotImplementedError

    def call(self, stage: Any, inputs: tuple[Any, ...]) -> Any:
        """The views, which must be such."""
        views = self.views(stage, *inputs)
        assert isinstance(views, tuple) and views, f"the result is a {type(views).__name__}, not a tuple of views"
        for view in views:
            assert isinstance(view, View), f"a view is a {type(view).__name__}, not a View"
        return views

    def test_shapes_and_dtypes(self) -> None:
        """Views and their labels have shape, dtype and range of the images and their labels."""
        for dim in self.dims:
            (scene,) = seeded(self.inputs, *SIZES[dim])
            for view in seeded(self.call, self.build(), (scene,)):
                expect_like("view", view.images, tuple(scene.weak.images.shape), scene.weak.images.dtype)
                expect_between("view", view.images, 0, 1)
                for before, after in zip(tensors_of(scene.weak.labels), tensors_of(view.labels), strict=True):
                    expect_like("label tensor of a view", after, tuple(before.shape), before.dtype)

    def test_contract(self) -> None:
        """All fields of labels move alike: valid pixels keep class, values, confidence and entropy together."""
        for dim in self.dims:
            for labels in (v.labels for v in seeded(self.call, self.build(), seeded(self.inputs, *SIZES[dim]))):
                first, valid = labels.classes[:, 0], labels.valid
                assert torch.isin(first[valid], torch.tensor([1, 3])).all(), (
                    "the view has new classes; warp labels by nearest neighbor"
                )
                true = labels.entropy == 0  # of labeled images
                for name, field, wanted in (
                    ("confidence", labels.confidence, torch.where(true, 1, first / 5)),
                    ("entropy", labels.entropy, torch.where(true, 0, first / 4)),
                    ("value", labels.values[:, 0], torch.where(true, 1, first / 5 + 0.3)),
                ):
                    expect_same(f"{name} against class", field[valid], wanted[valid].to(field.dtype))

    def test_invalid_pixels_do_not_matter(self) -> None:
        """Pixels that are invalid, or come from outside the image, never become valid."""
        for dim in self.dims:
            (scene,) = seeded(self.inputs, *SIZES[dim])
            labels = replace(scene.weak.labels, valid=scene.weak.labels.valid & False)
            nothing = scene._replace(weak=scene.weak._replace(labels=labels), known=scene.known & False)
            for view in seeded(self.call, self.build(), (nothing,)):
                assert not view.labels.valid.any(), "the view makes invalid pixels valid"

    def test_same_random_state_gives_same_views(self) -> None:
        """All randomness comes from torch's global generator, which training seeds: runs are reproducible."""
        for dim in self.dims:
            inputs = seeded(self.inputs, *SIZES[dim])
            first, second = (seeded(self.call, self.build(), inputs, seed=3) for _ in range(2))
            expect_same("views of one random state", second, first)


class AugmentTester(_ViewTester):
    """Tests of an augment stage.

    Attributes:
        channels: image channels Cin to test with.
    """

    kind = Augment

    def views(self, stage: Any, scene: Scene) -> tuple[View, ...]:
        """The strong views."""
        views: tuple[View, ...] = stage.strong(scene)
        return views

    def test_the_weak_view_keeps_its_shape(self) -> None:
        """And its dtype and range."""
        for dim in self.dims:
            (scene,) = seeded(self.inputs, *SIZES[dim])
            images = scene.weak.images
            weak = seeded(self.build().weak, images, scene.weak.labels.valid)
            expect_like("weak view", weak, tuple(images.shape), images.dtype)
            expect_between("weak view", weak, 0, 1)


class MixTester(_ViewTester):
    """Tests of a mix stage.

    Attributes:
        channels: image channels Cin to test with.
    """

    kind = Mix

    def views(self, stage: Any, scene: Scene) -> tuple[View, ...]:
        """The weak view, mixed."""
        return (stage(scene.weak, scene),)


class PerturbTester(_ViewTester):
    """Tests of a perturb stage.

    Attributes:
        channels: image channels Cin to test with.
        views_in: number of views that it is given.
    """

    kind = Perturb
    views_in: ClassVar[int] = 2
    features: ClassVar[tuple[int, ...]] = (4, 6)
    """Channels of the maps to test with."""

    def views(self, stage: Any, scene: Scene) -> tuple[View, ...]:
        """The weak views, with parameters."""
        views: tuple[View, ...] = stage.draw((scene.weak,) * self.views_in, scene, self.features)
        return views

    def test_maps_keep_their_shapes(self) -> None:
        """And dtypes, in half precision as well; parameters have a row for each image."""
        for dim in self.dims:
            stage = self.build()
            for view in seeded(self.call, stage, seeded(self.inputs, *SIZES[dim])):
                if view.drawn is None:
                    continue
                assert len(view.drawn) == len(view.images), "parameters have another number of rows than images"
                for dtype in (torch.float32, torch.bfloat16):
                    maps = tuple(torch.rand(len(view.drawn), each, *SIZES[dim]).to(dtype) for each in self.features)
                    changed = stage(maps, view.drawn)
                    assert len(changed) == len(maps), f"{len(maps)} maps become {len(changed)}"
                    for before, after in zip(maps, changed, strict=True):
                        expect_like("changed map", after, tuple(before.shape), dtype)

    def test_rows_are_changed_alone(self) -> None:
        """Changed maps of an image do not depend on the other images: micro-batches do not matter."""
        for dim in self.dims:
            stage = self.build()
            for view in seeded(self.call, stage, seeded(self.inputs, *SIZES[dim])):
                if view.drawn is None:
                    continue
                maps = tuple(torch.rand(len(view.drawn), each, *SIZES[dim]) for each in self.features)
                rows = [slice(i, i + 1) for i in range(len(view.drawn))]
                parts = [stage(tuple(each[row] for each in maps), view.drawn[row]) for row in rows]
                joined = tuple(torch.cat(each) for each in zip(*parts, strict=True))
                expect_same("maps of single images", joined, stage(maps, view.drawn))
