"""Builds the parts of a recipe from their plugins: data set, splits, stages and networks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from farcluss.data.base import Dataset, defaults_of
from farcluss.data.splits import Splits, resolve
from farcluss.data.weighting import Chances, check_draw, draw_chances
from farcluss.errors import DataError, PluginError, RecipeError, counted
from farcluss.inference.card import Card, card_of
from farcluss.inference.weights import build_network
from farcluss.learning.contracts import Stages
from farcluss.networks.bands import Bands, bands_of
from farcluss.networks.base import points_of
from farcluss.networks.normalize import Normalize
from farcluss.plugins import registry
from farcluss.recipes.model import Data, Defaults, Network, Recipe
from farcluss.stages.base import STAGES

if TYPE_CHECKING:
    from farcluss.networks.pretrained import Facts


@dataclass(frozen=True)
class Parts:
    """The built parts of a recipe; networks are built on demand, after seeding."""

    recipe: Recipe
    dataset: Dataset
    splits: Splits
    stages: Stages
    normalize: Normalize
    crop: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Size of the embeddings; 0 when nothing uses them."""
        return self.stages.contrast.dim if self.recipe.loss.contrastive > 0 else 0

    def build_networks(self) -> tuple[Any, nn.Module]:
        """Student and teacher with equal weights; the teacher gets no gradients and stays in evaluation mode."""
        network = self.recipe.network
        arguments = (network.name, network.options, self.recipe.data.channel_count, len(self.dataset.classes), self.dim)
        student = build_network(*arguments, network.pretrained, pretrained_bands(self.recipe))
        check_point(self.stages, network.name, student)
        teacher = build_network(*arguments, False)
        teacher.load_state_dict(student.state_dict())
        return student, teacher.requires_grad_(False).eval()

    def steps(self) -> int:
        """Number of training steps; an epoch is a pass over the unlabeled images, else the labeled ones."""
        train = self.recipe.train
        per_epoch = -(-len(self.splits.unlabeled or self.splits.labeled) // train.batch)
        return train.steps or (train.epochs or 0) * per_epoch

    def chances(self) -> tuple[Chances | None, Chances | None]:
        """Sampling probabilities of labeled and unlabeled images, see `draw_chances`."""
        unlabeled = self.splits.unlabeled if self.recipe.semi_supervised else []
        return draw_chances(self.dataset, self.splits.labeled, unlabeled, self.recipe.data)

    def card(self) -> Card:
        """The metadata of this recipe's weights files."""
        recipe, dataset = self.recipe, self.dataset
        carried: Data = getattr(dataset, "carried", recipe.data)
        known = defaults_of(dataset)
        recipe = recipe.model_copy(update={"data": carried.with_defaults(known)})
        return card_of(recipe, known, dataset.classes, dataset.palette, self.dim, self.crop)


ORIGIN = ("classes", "ignore_index", "reduce_zero_label", "channels")
"""Keys of `[data]` that affect the pixels read, besides the layout."""


def build_dataset(data: Data) -> Dataset:
    """The data set of a `[data]` section: its pack, or the one built by its layout. Raises FarclussError."""
    dataset: Dataset
    if data.pack is not None:
        from farcluss.data.pack import open_pack  # imported here, as most recipes use no pack

        dataset = open_pack(data, data_origin(data))
    else:
        dataset = registry.build("dataset", data.layout.name, data.layout.options, data)
    if len(dataset.classes) < 2:
        raise RecipeError(
            f"data.classes: {', '.join(map(repr, dataset.classes))} is one class, two are the least.\n"
            "Name what is around it too, as in classes = { background = 0, object = 1 }."
        )
    return dataset


def data_origin(data: Data) -> dict[str, Any]:
    """The recipe keys that affect the pixels of a data set, as plain values; packs store them."""
    layout = data.layout
    options, _ = registry.get("dataset", layout.name).describe().check(layout.name, layout.options)
    values = {"layout.name": layout.name, **{f"layout.{key}": value for key, value in options.items()}}
    values |= {key: getattr(data, key) for key in ORIGIN}
    # Classes as pairs, because their order matters and JSON objects ignore it.
    if isinstance(data.classes, dict):
        values["classes"] = list(data.classes.items())
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return {f"data.{key}": value for key, value in plain.items()}


def carried_keys(dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys that affect pixels, of the `[data]` section that a data set provides for weights files; for packs.

    Returns:
        Those keys as plain values, and the `data_origin` of that section; both empty if weights files get the recipe's
        own section.
    """
    section: Data | None = getattr(dataset, "carried", None)
    if section is None:
        return {}, {}
    section = section.with_defaults(defaults_of(dataset))
    return json.loads(section.model_dump_json(include={"layout", *ORIGIN})), data_origin(section)


def build_stages(recipe: Recipe) -> Stages:
    """The stages. Raises PluginError."""
    parts = {kind: getattr(recipe.stages, kind) for kind in STAGES}
    built = {kind: registry.build(kind, part.name, part.options, kind=STAGES[kind]) for kind, part in parts.items()}
    return Stages(**built, names={kind: part.name for kind, part in parts.items()})


def build_parts(recipe: Recipe) -> Parts:
    """Build everything but the networks, and fill the recipe with the defaults of the data set.

    Raises:
        PluginError, DataError: with what to fix.
    """
    stages = build_stages(recipe)
    dataset = build_dataset(recipe.data)
    known = known_of(recipe, dataset)
    recipe = recipe.with_defaults(known)
    check_images(recipe, known, stages)
    pretrained_bands(recipe)
    check_draw(dataset, recipe.data)
    splits = resolve(dataset, recipe.data)
    if recipe.semi_supervised and not splits.unlabeled:
        raise DataError(
            "There are no unlabeled images: every training image is labeled.\n"
            "Set data.labeled to a list or a share, or train with --with supervised."
        )
    axes = len(dataset.size(splits.labeled[0]))
    sides = crop_sides(recipe.data.crop, axes)
    if recipe.eval.window is not None:
        crop_sides(recipe.eval.window, axes, "eval.window")
    check_axes(recipe.data, axes)
    normalize = Normalize(recipe.data.channel_mean, recipe.data.channel_std)
    return Parts(recipe, dataset, splits, stages, normalize, sides)


def known_of(recipe: Recipe, dataset: Dataset) -> Defaults:
    """What the data set knows of its images; mean and std of the pretrained weights where it has no opinion of them.

    For RGB images in [0, 1], as those that the weights were trained with.
    """
    known = defaults_of(dataset)
    facts = pretrained_facts(recipe.network)
    pictures = recipe.data.with_defaults(known).channel_count == 3 and known.value_range == (0.0, 1.0)
    if facts is None or not pictures or (known.mean, known.std) != (None, None):
        return known
    return replace(known, mean=facts.mean, std=facts.std, statistics="weights")


def pretrained_facts(network: Network) -> "Facts | None":
    """What is known of the weights that a network begins with, if its option `encoder` names one of timm's.

    Nothing of weights for other bands than red, green and blue.
    """
    if network.pretrained is False or network.pretrained_bands is not None:
        return None
    from farcluss.networks.pretrained import facts_of  # imported here, as it imports timm

    options, _ = registry.get("network", network.name).describe().check(network.name, network.options)
    return facts_of(str(options["encoder"])) if options.get("encoder") else None


def pretrained_bands(recipe: Recipe) -> Bands | None:
    """Which bands of the pretrained weights the channels of the images are, where the recipe names them.

    Raises:
        RecipeError: the channels have no names, or such that the weights lack.
    """
    names, channels = recipe.network.pretrained_bands, recipe.data.channel_names
    if names is None or recipe.network.pretrained is False:
        return None
    if channels is None:
        raise RecipeError(
            "network.pretrained_bands names the bands of the weights, but those of the images have no names.\n"
            "Name them by data.channel_names, in their order."
        )
    return bands_of(names, channels)


def check_point(stages: Stages, name: str, network: nn.Module) -> None:
    """Refuse to perturb features at a point that the network `name` lacks. Raises PluginError."""
    point, points = stages.perturb.point, points_of(network)
    if point and point not in points:
        raise PluginError(
            f"Plugin {stages.name('perturb')} changes features at {point!r}, a point that network {name} does not "
            f"have; it has {', '.join(points) or 'none'}.\n"
            "Take a network that has it (of images: deeplabv3plus, smp), or a method without stages.perturb."
        )


def check_images(recipe: Recipe, known: Defaults, stages: Stages) -> None:
    """Refuse what does not suit the images of the data set.

    Raises:
        RecipeError: mean or std are of another number of channels.
        PluginError: the strong view is for another range of values, which it would cut off without a word.
    """
    if text := recipe.data.wrong_length(recipe.data.channel_count):
        raise RecipeError(f"data.{text}.")
    needed, given = stages.augment.value_range, known.value_range
    if needed is not None and (given is None or not needed[0] <= given[0] <= given[1] <= needed[1]):
        raise PluginError(
            f"Strong view {stages.name('augment')} is for images in [{needed[0]:g}, {needed[1]:g}]; those of layout "
            f'{recipe.data.layout.name} have any values.\nSet stages.augment = "intensity".'
        )


def crop_sides(crop: int | Sequence[int], axes: int, key: str = "data.crop") -> tuple[int, ...]:
    """Pixels per axis of a crop, or of a window with another `key`. Raises DataError when a list does not fit."""
    sides = (crop,) * axes if isinstance(crop, int) else tuple(crop)
    if len(sides) != axes:
        raise DataError(f"{key} has {counted(len(sides), 'side')}, the images have {axes} axes.")
    return sides


def check_axes(data: Data, axes: int) -> None:
    """Check that the images have the axes of flips and rotations. Raises DataError."""
    for key, groups in (("data.flip_axes", [data.flip_axes or []]), ("data.turns", data.turns or [])):
        for group in groups:
            if unknown := [axis for axis in group if not -axes <= axis < axes]:
                raise DataError(
                    f"{key} names axis {unknown[0]}, the images have {axes} axes: 0 to {axes - 1}, or -1 for the last."
                )
            if len({axis % axes for axis in group}) < len(group):
                raise DataError(f"{key} names one axis twice: {list(group)}. Name each once; -1 is the last.")
