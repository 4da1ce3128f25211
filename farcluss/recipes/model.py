"""The keys of a recipe: one model per table, one described field per key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from farcluss.plugins.options import Color, Count, Positive, PositiveInt, ScaleRange, Share
from farcluss.recipes.sections import Part, Section
from farcluss.recipes.training import Loss, Train

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
"""A string that may be written as a number, such as a share."""

Sides = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)]
Stride = Annotated[float, Field(ge=0.05, le=1)]
Scales = Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Field(min_length=1, max_length=16)]
"""Settings of inference, in recipes and in weights files: pixels of a window, its step as a share, image scales."""


@dataclass(frozen=True)
class Defaults:
    """What a data set knows of its images; None where it has no opinion.

    A recipe's own key overrides it, and it overrides the general default.

    Attributes:
        channels: number of image channels.
        channel_names: names of the channels, in order, such as bands.
        mean: mean of all channels or of each, subtracted before the network.
        std: standard deviation, likewise.
        flip_axes: spatial axes along which a flipped image is as plausible as the original.
        turns: planes, as pairs of axes, in which a rotated image is as plausible as the original.
        writer: writer plugin of `farcluss predict`.
        value_range: bounds of the pixel values; None: any values. Strong views for other bounds are refused.
        mask_values: what masks store for each class, a value or a color, for predictions; None: the class index.
        statistics: where mean and std are from: "data set", or "weights" that the network begins with.
    """

    channels: int | None = None
    channel_names: list[str] | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    flip_axes: list[int] | None = None
    turns: list[tuple[int, int]] | None = None
    writer: str | None = None
    value_range: tuple[float, float] | None = (0.0, 1.0)
    mask_values: list[int | Color] | None = None
    statistics: Literal["data set", "weights"] = "data set"


GENERAL = Defaults(channels=3, flip_axes=[-1], turns=[], writer="png")
"""Values where neither recipe nor data set give one; mean and std depend on the channels."""
FROM_DATA_SET = (
    *("data.channels", "data.channel_names", "data.mean", "data.std", "data.flip_axes", "data.turns"),
    "eval.writer",
)
"""Keys of a recipe that a data set may fill in."""


class Data(Section):
    """Images, masks, lists and the crops drawn from them."""

    layout: Part = Field(default=Part(name="folder"), description="data set plugin and its options")
    root: Path = Field(default=Path(), description="folder of the data set; relative to the working directory")
    pack: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(
        default=None, description="file of `farcluss pack` to read images from, instead of below `root`"
    )
    labeled: Text = Field(
        default="all",
        description='list file, share such as "1/8", name of a published list, or "all": every image with a mask',
    )
    unlabeled: str = Field(
        default="rest", description='list file, "rest": all training images that are not labeled, or "none"'
    )
    val: Text = Field(
        default="val", description='list file, share of the images with a mask, split "val" or "test", or "none"'
    )
    draw_seed: int = Field(default=0, description="seed of the shares drawn for `labeled`, `val` and `probe`")
    probe: Count = Field(
        default=0,
        description="labeled images, or groups of them, that are held back from the supervised loss and stay in as "
        "unlabeled ones, to tell how right and how sure the teacher's labels are; 0 for none",
    )
    allow_overlap: bool = Field(default=False, description="allow an image in more than one of the three sets")
    classes: list[str] | dict[str, int | Color | list[int | Color]] | None = Field(
        default=None,
        description="names in order of mask value; or name = value, color, or list of them; default: the layout's",
    )
    ignore_index: int | Color | list[int | Color] | None = Field(
        default=None, description="mask values or colors to ignore; default: 255, unless it is a class"
    )
    reduce_zero_label: bool = Field(
        default=False, description="mask value 0 means ignore, and class i is stored as i + 1"
    )
    palette: list[Color] | None = Field(default=None, description="color per class for pictures; default: the layout's")
    draw: Literal["uniform", "balanced"] = Field(
        default="uniform",
        description="balanced: sample labeled images by class, all classes with the same probability, and unlabeled "
        "images in proportion to their valid pixels; for data sets that count pixels, and packs",
    )
    channels: Annotated[PositiveInt, Field(le=2**16)] | None = Field(
        default=None, description="number of image channels; default: the data set's, else 3"
    )
    channel_names: list[str] | None = Field(
        default=None,
        description="names of the channels, in order, such as bands; for network.pretrained_bands; default: the data "
        "set's",
    )
    mean: float | list[float] | None = Field(
        default=None,
        description="mean of all channels or of each, with the full range of 8 or 16 bits as 1; default: the data "
        "set's, else that of the pretrained weights, else ImageNet's, both for 3 channels, else 0.5",
    )
    std: Positive | list[Positive] | None = Field(
        default=None,
        description="standard deviation, likewise; default: the data set's, else that of the pretrained weights, else "
        "ImageNet's, both for 3 channels, else 0.25",
    )
    crop: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        default=321, description="pixels per side of a training crop"
    )
    scale: ScaleRange = Field(default=(0.5, 2.0), description="range of the random scale before cropping")
    flip: Share = Field(default=0.5, description="probability of a flip, for each of flip_axes independently")
    flip_axes: list[int] | None = Field(
        default=None,
        description="spatial axes to flip, counted from 0; default: the data set's, else [-1]: left and right",
    )
    turns: list[tuple[int, int]] | None = Field(
        default=None,
        description="planes, as pairs of spatial axes, in which a crop is rotated by a random multiple of 90 degrees, "
        "or of 180 degrees if its two sides differ; default: the data set's, else []",
    )
    jpeg_draft: bool = Field(
        default=False,
        description="decode a JPEG at reduced size if the crop downscales it by 2 or more: about twice as fast, pixels "
        "differ slightly; no effect with `pack`",
    )
    workers: Count = Field(default=4, description="loader processes per training process")
    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="skip: replace an unreadable training image by another, and report it"
    )

    @field_validator("classes")
    @classmethod
    def _classes_have_names(cls, classes: Any) -> Any:
        if wrong := [name for name in classes or () if not (name.strip() and name.isprintable())]:
            raise ValueError(f"{wrong[0]!r} is not a name; give every class one that can be printed")
        return classes

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "Data":
        if self.channels is not None and (text := self.wrong_length(self.channels)):
            raise ValueError(text)
        return self

    def with_defaults(self, known: Defaults) -> "Data":
        """This section with its open keys filled in, see `Recipe.with_defaults`."""
        return self.model_copy(update=_missing("data", self, known))

    def wrong_length(self, channels: int) -> str:
        """An error text if a list of values per channel has another number of them; else empty."""
        for key in ("mean", "std", "channel_names"):
            values = getattr(self, key)
            if isinstance(values, list) and len(values) != channels:
                return f"{key} has {len(values)} values for {channels} channels"
        return ""

    @property
    def channel_count(self) -> int:
        """Channels of an image, the general default filled in."""
        return self.channels or cast(int, GENERAL.channels)

    @property
    def channel_mean(self) -> list[float]:
        """Mean per channel, defaults filled in."""
        return self._per_channel(self.mean, [0.485, 0.456, 0.406], 0.5)

    @property
    def channel_std(self) -> list[float]:
        """Standard deviation per channel, defaults filled in."""
        return self._per_channel(self.std, [0.229, 0.224, 0.225], 0.25)

    def _per_channel(self, value: float | list[float] | None, rgb: list[float], other: float) -> list[float]:
        if value is None:
            value = rgb if self.channel_count == 3 else other
        return value if isinstance(value, list) else [value] * self.channel_count


class Network(Part):
    """The network and its options."""

    name: str = "deeplabv3plus"
    pretrained: bool | str = Field(
        default=False, description="true: download; a path: local .safetensors or .pth file; false: from scratch"
    )
    pretrained_bands: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="names of the bands of the pretrained weights, in their order; those of data.channel_names are "
        "picked from them",
    )


class Stages(Section):
    """The stages of the method, in the order of the data."""

    augment: Part = Part(name="photometric")
    mix: Part = Part(name="none")
    perturb: Part = Part(name="none")
    pseudo_label: Part = Part(name="fuzzy")
    weight: Part = Part(name="entropy")
    rebalance: Part = Part(name="median-frequency")
    contrast: Part = Part(name="prototype")


class Eval(Section):
    """Prediction and evaluation, in training and by `farcluss eval`."""

    every: PositiveInt = Field(default=1000, description="steps between evaluations; the last step is always evaluated")
    mode: Literal["whole", "sliding"] = Field(
        default="whole", description="predict the whole image at once, or by sliding window"
    )
    window: PositiveInt | Sides | None = Field(
        default=None, description="pixels per side of the sliding window; default: data.crop"
    )
    stride: Stride = Field(default=2 / 3, description="step of the window as a share of its side")
    blend: Literal["mean", "gaussian"] = Field(
        default="mean",
        description="how overlapping windows are averaged; gaussian: with more weight near the center of a window",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="of the network when it predicts; bf16 is faster on GPUs and newer CPUs and changes a few pixels",
    )
    flip: bool = Field(default=False, description="average with the prediction of the flipped image")
    scales: Scales = Field(default=(1.0,), description="average the predictions at these image scales")
    network: Literal["teacher", "student"] = Field(
        default="teacher", description="network that weights/*.safetensors contain"
    )
    writer: Part | None = Field(
        default=None,
        description="writer plugin of `farcluss predict` and its options; default: the data set's, else png",
    )


class Recipe(Section):
    """A whole recipe."""

    name: str = Field(default="", description="name of the run; default: the file's name")
    data: Data = Data()
    network: Network = Network(name="deeplabv3plus")
    stages: Stages = Stages()
    loss: Loss = Loss()
    train: Train
    eval: Eval = Eval()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if name and (name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name) or not name.strip()):
            raise ValueError("must be a valid folder name: printable, without slashes, not . or ..")
        return name

    def with_defaults(self, known: Defaults) -> "Recipe":
        """This recipe with the open keys of `FROM_DATA_SET` filled in, by the data set or the general defaults."""
        evaluation = self.eval.model_copy(update=_missing("eval", self.eval, known))
        return self.model_copy(update={"data": self.data.with_defaults(known), "eval": evaluation})

    def sources(self, known: Defaults) -> dict[str, str]:
        """Source of the value of each key of `FROM_DATA_SET`: "recipe", "data set", "weights" or "default"."""
        found = dict[str, str]()
        for path in FROM_DATA_SET:
            section, _, key = path.partition(".")
            given = getattr(getattr(self, section), key), getattr(known, key)
            filled = known.statistics if key in ("mean", "std") else "data set"
            found[path] = "recipe" if given[0] is not None else filled if given[1] is not None else "default"
        return found

    @property
    def semi_supervised(self) -> bool:
        """Whether unlabeled images are used."""
        return self.loss.unsupervised > 0 or self.loss.contrastive > 0


def _missing(name: str, section: Section, known: Defaults) -> dict[str, Any]:
    """Values for the open keys of a section, from the data set or else from the general defaults."""
    found: dict[str, Any] = {}
    for path in FROM_DATA_SET:
        home, _, key = path.partition(".")
        values = [value for value in (getattr(known, key), getattr(GENERAL, key)) if value is not None]
        if home == name and values and getattr(section, key) is None:
            found[key] = Part(name=values[0]) if key == "writer" else values[0]
    return found


def parts(recipe: Recipe) -> list[tuple[str, str, Part]]:
    """Every plugin that a recipe names: key path, group, part."""
    stages = [(f"stages.{kind}", kind, getattr(recipe.stages, kind)) for kind in Stages.model_fields]
    data, network = ("data.layout", "dataset", recipe.data.layout), ("network", "network", recipe.network)
    writer = [("eval.writer", "writer", recipe.eval.writer)] if recipe.eval.writer else []
    return [data, network, *stages, *writer]


def flat(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that are set, by key path, as plain values."""
    found: dict[str, Any] = {}

    def walk(table: dict[str, Any], above: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                walk(value, f"{above}{key}.")
            elif value is not None:
                found[f"{above}{key}"] = value

    walk(recipe.model_dump(mode="json"), "")
    return found
