"""The card of a weights file: all that is needed to use its tensors, with bounds like those of a recipe."""

import platform
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

import farcluss
from farcluss.data.base import IGNORE, Palette
from farcluss.errors import RecipeError, counted
from farcluss.inference.probs import Blend
from farcluss.plugins.options import Color, Count, Positive, PositiveInt
from farcluss.recipes.model import Defaults, Eval, Recipe, Scales, Sides, Stride

Precision = Literal["float32", "bf16"]
Level = Annotated[int, Field(ge=0, le=255)]
Few = Field(le=2**16)
"""Bound of channels and of embeddings: more are a mistake."""


class Inference(BaseModel):
    """Options of `farcluss.inference.probs.predict_probs`, and the precision of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    window: Sides | None = None
    stride: Stride = 2 / 3
    blend: Blend = "mean"
    precision: Precision = "float32"
    flip: bool = False
    scales: Scales = (1.0,)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `predict_probs`, by name."""
        return {name: value for name, value in self if name != "precision"}


def inference_of(settings: Eval, crop: tuple[int, ...]) -> Inference:
    """The inference options of a recipe's `[eval]`; the window defaults to the training crop.

    Raises:
        RecipeError: the window has another number of axes than the crop.
    """
    side = settings.window or crop
    window = (side,) * len(crop) if isinstance(side, int) else side
    if len(window) != len(crop):
        raise RecipeError(f"eval.window has {counted(len(window), 'side')}, the images have {len(crop)} axes.")
    sliding = settings.mode == "sliding"
    return Inference(
        window=window if sliding else None,
        stride=settings.stride,
        blend=settings.blend,
        precision=settings.precision,
        flip=settings.flip,
        scales=settings.scales,
    )


class Card(BaseModel):
    """The metadata of a weights file: the network, its classes and inference options, and its origin.

    Attributes:
        axes: spatial axes of an image.
        value_range: bounds of the pixel values; None: any values.
        mask_values: what masks store for each class, a value or a color; None: the class index.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    network: str
    options: dict[str, Any]
    channels: Annotated[PositiveInt, Few]
    dim: Annotated[Count, Few]
    classes: Annotated[list[str], Field(min_length=1, max_length=IGNORE - 1)]
    palette: tuple[tuple[Level, Level, Level], ...]
    mean: list[float]
    std: list[Positive]
    inference: Inference
    axes: Annotated[int, Field(ge=1, le=3)] = 2
    value_range: tuple[float, float] | None = (0.0, 1.0)
    mask_values: list[int | Color] | None = None
    source: str = ""
    step: int = 0
    scores: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}

    @field_validator("recipe")
    @classmethod
    def _tables(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        wrong = [key for key in ("data", "network", "train") if not isinstance(recipe.get(key, {}), dict)]
        if wrong:
            raise ValueError(f"{wrong[0]} must be a table")
        Eval.model_validate(recipe.get("eval", {}))
        return recipe

    @model_validator(mode="after")
    def _lengths(self) -> "Card":
        wanted = {"mean": self.channels, "std": self.channels, "palette": len(self.classes)}
        wanted |= {"mask_values": len(self.classes)} if self.mask_values is not None else {}
        for key, length in wanted.items():
            if len(getattr(self, key)) != length:
                raise ValueError(f"{key} has {len(getattr(self, key))} values, not {length}")
        if self.inference.window and len(self.inference.window) != self.axes:
            raise ValueError(f"the window has {len(self.inference.window)} sides, images have {self.axes} axes")
        return self


def card_of(
    recipe: Recipe,
    known: Defaults,
    classes: tuple[str, ...],
    palette: Palette,
    dim: int,
    crop: tuple[int, ...],
) -> Card:
    """The metadata of a recipe's network, without scores."""
    return Card(
        network=recipe.network.name,
        options=recipe.network.options,
        channels=recipe.data.channel_count,
        dim=dim,
        classes=list(classes),
        palette=palette,
        mean=recipe.data.channel_mean,
        std=recipe.data.channel_std,
        inference=inference_of(recipe.eval, crop),
        axes=len(crop),
        value_range=known.value_range,
        mask_values=known.mask_values,
        recipe=recipe.model_dump(mode="json"),
        versions={"farcluss": farcluss.__version__, "torch": torch.__version__, "python": platform.python_version()},
    )
