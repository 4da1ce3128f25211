"""Recipes: TOML files that name the parts of a run, validated as a whole before anything is built.

Order of precedence, lowest first: the file that `extends` names, the recipe, each `--with` overlay, each `--set`.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from farcluss.errors import RecipeError
from farcluss.options import Color, Count, NonNegative, Positive, PositiveInt, Range, Share

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
"""A text that may be written as a number, such as a share."""


class Section(BaseModel):
    """Base of every table of a recipe: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Part(Section):
    """A plugin by name with its options; `"name"` alone is short for `{ name = "name" }`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="entry-point name, see `farcluss plugins list`")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: the plugin's own options."""
        return dict(self.model_extra or {})


class Data(Section):
    """Images, masks, lists and the crops drawn from them."""

    layout: Part = Field(default=Part(name="folder"), description="data set plugin and its options")
    root: Path = Field(default=Path(), description="folder of the data set; relative to the working directory")
    labeled: Text = Field(
        default="all", description='list file, share such as "1/8", published list name, or "all" images with a mask'
    )
    unlabeled: str = Field(
        default="rest", description='list file, or "rest": the training images that are not labeled; "none" for none'
    )
    val: Text = Field(
        default="val", description='list file, share of the images with a mask, split "val" or "test", or "none"'
    )
    draw_seed: int = Field(default=0, description="seed of the shares drawn for `labeled` and `val`")
    allow_overlap: bool = Field(default=False, description="accept an image in more than one of the three sets")
    classes: list[str] | dict[str, int | Color | list[int | Color]] | None = Field(
        default=None,
        description="names in order of mask value; or name = value, color, or list of them; default: the layout's",
    )
    ignore_index: int | Color | list[int | Color] | None = Field(
        default=None, description="mask values or colors that count nowhere; default: 255, unless a class has it"
    )
    reduce_zero_label: bool = Field(default=False, description="mask value 0 means ignore, class i is stored as i + 1")
    palette: list[Color] | None = Field(default=None, description="color per class for pictures; default: the layout's")
    channels: PositiveInt = Field(default=3, description="image channels that the network gets")
    mean: list[float] | None = Field(
        default=None, description="per channel, the full range being 1; default: ImageNet's for 3 channels, else 0.5"
    )
    std: list[Positive] | None = Field(default=None, description="per channel; default: ImageNet's for 3, else 0.25")
    crop: PositiveInt | list[PositiveInt] = Field(default=321, description="pixels per side of a training crop")
    scale: Range = Field(default=(0.5, 2.0), description="random scale before cropping")
    flip: Share = Field(default=0.5, description="chance of a horizontal flip")
    workers: Count = Field(default=4, description="loader processes per training process")

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "Data":
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{key} has {len(values)} values for {self.channels} channels")
        return self

    @property
    def channel_mean(self) -> list[float]:
        """Mean per channel, defaults filled in."""
        return self.mean or ([0.485, 0.456, 0.406] if self.channels == 3 else [0.5] * self.channels)

    @property
    def channel_std(self) -> list[float]:
        """Standard deviation per channel, defaults filled in."""
        return self.std or ([0.229, 0.224, 0.225] if self.channels == 3 else [0.25] * self.channels)


class Network(Part):
    """The network and its options."""

    name: str = "deeplabv3plus"
    pretrained: bool | str = Field(
        default=False, description="true: download; a path: a local .safetensors or .pth; false: from scratch"
    )


class Stages(Section):
    """The five stages of the method, in the order of the data."""

    augment: Part = Part(name="photometric")
    pseudo_label: Part = Part(name="fuzzy")
    weight: Part = Part(name="entropy")
    rebalance: Part = Part(name="median-frequency")
    contrast: Part = Part(name="prototype")


class Loss(Section):
    """Losses and their weights (eq. 11, 12)."""

    supervised: Literal["cross-entropy", "ohem"] = Field(default="cross-entropy", description="loss on labeled images")
    ohem_threshold: Share = Field(default=0.7, description="ohem: pixels whose true class is less probable are kept")
    ohem_min_kept: PositiveInt = Field(default=200_000, description="ohem: at least so many pixels of a batch are kept")
    unsupervised: NonNegative = Field(
        default=0.5, description="lambda_u; 0 together with contrastive 0: supervised only"
    )
    contrastive: NonNegative = Field(default=0.1, description="lambda_c")
    warmup_steps: Count = Field(default=0, description="train on labeled images alone first; from scratch: needed")
    ramp_steps: Count = Field(default=0, description="then raise both weights linearly from 0")


class Train(Section):
    """Optimization."""

    steps: PositiveInt | None = Field(default=None, description="optimizer steps; either this or epochs")
    epochs: PositiveInt | None = Field(default=None, description="passes over the unlabeled set")
    batch: PositiveInt = Field(default=8, description="labeled images per step, over all processes; as many unlabeled")
    accumulate: PositiveInt = Field(
        default=1, description="micro-batches per step, for small memory; only batch norm, OHEM and prototypes see them"
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd (momentum, nesterov off) or adamw")
    lr: Positive = Field(default=0.001, description="peak learning rate of the encoder")
    head_lr: Positive = Field(default=10.0, description="learning rate of everything else, as a multiple of lr")
    momentum: Share = Field(default=0.9, description="sgd")
    weight_decay: NonNegative = Field(
        default=1e-4, description="also decays norms and biases unless decay_norms = false"
    )
    decay_norms: bool = Field(default=True, description="false: no decay on norm parameters and biases")
    schedule: Literal["poly", "cosine"] = Field(default="poly", description="learning-rate curve")
    power: Positive = Field(default=0.9, description="poly")
    lr_warmup_steps: Count = Field(default=0, description="linear learning-rate warm-up")
    clip: NonNegative = Field(default=0.0, description="largest gradient norm; 0: no clipping")
    ema: Share = Field(default=0.999, description="teacher decay a of eq. 1, ramped as min(a, 1 - 1/(t+1))")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = Field(
        default=None, description="default: what accelerate is configured for"
    )
    seed: int = Field(default=0, ge=0, description="seed of weights, order and augmentation")
    log_every: PositiveInt = Field(default=50, description="steps between two lines of metrics.jsonl")
    checkpoint_every: PositiveInt = Field(default=1000, description="steps between two checkpoints")
    keep_checkpoints: PositiveInt = Field(default=2, description="older ones are removed")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default=[], description="Accelerate trackers to write to")

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set either steps or epochs, not both" if self.steps else "set steps or epochs")
        return self


class Eval(Section):
    """How images are predicted and scored, in training and by `farcluss eval`."""

    every: PositiveInt = Field(
        default=1000, description="steps between two evaluations; the last step is always scored"
    )
    mode: Literal["whole", "sliding"] = Field(default="whole", description="whole image, or sliding window")
    window: PositiveInt | list[PositiveInt] | None = Field(default=None, description="default: data.crop")
    stride: Share = Field(default=2 / 3, description="step of the window, as a share of it")
    flip: bool = Field(default=False, description="average with the mirrored image")
    scales: list[Positive] = Field(default=[1.0], min_length=1, description="average over these image scales")
    network: Literal["teacher", "student"] = Field(
        default="teacher", description="which one weights/*.safetensors hold"
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

    @property
    def semi_supervised(self) -> bool:
        """Whether unlabeled images take part at all."""
        return self.loss.unsupervised > 0 or self.loss.contrastive > 0


Key = tuple[str, ...]
Origins = dict[Key, str]


def recipe_folder() -> Path:
    """The folder of the shipped recipes, in an installed package and in a source tree."""
    inside = Path(__file__).parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def find_recipe(name: str | os.PathLike[str], below: str = "") -> Path:
    """Path of a recipe by path or by shipped name.

    Raises:
        RecipeError: no such file or name; the message suggests near names.
    """
    for path in (Path(name), recipe_folder() / below / f"{name}.toml"):
        if path.is_file():
            return path
    known = [p.stem for p in sorted((recipe_folder() / below).glob("*.toml"))]
    raise RecipeError(f"There is no recipe file or shipped recipe {str(name)!r}{suggestion(str(name), known)}\n"
                      "`farcluss recipes list` shows the shipped ones.")  # fmt: skip


def suggestion(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` when something near is known, else `"."`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."


def load_recipe(
    source: str | os.PathLike[str], overlays: Sequence[str | os.PathLike[str]] = (), settings: Sequence[str] = ()
) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        source: path or shipped name.
        overlays: paths or shipped names below `methods/`, merged over it in order.
        settings: `a.b=VALUE`; VALUE is a TOML literal, or else a string.

    Raises:
        RecipeError: with one line per error, each with file and key path.
    """
    table = _read(path := find_recipe(source))
    merged, origins = dict[str, Any](), Origins()
    if base := table.pop("extends", None):
        parent = path.parent / str(base)
        lower = _read(parent) if parent.is_file() else None
        if lower is None or "extends" in lower:
            reason = "does not exist" if lower is None else "extends another file itself; one level is the limit"
            raise RecipeError(f"{path}: extends: {parent} {reason}.")
        _merge(merged, lower, str(parent), origins)
    _merge(merged, table, str(path), origins)
    names = [str(merged.get("name") or path.stem)]
    for overlay in overlays:
        table = _read(file := find_recipe(overlay, "methods"))
        names.append(str(table.pop("name", file.stem)))
        _merge(merged, table, str(file), origins)
    merged["name"] = "-".join(names)
    for setting in settings:
        _merge(merged, _parse_setting(setting), f"--set {setting}", origins)
    return _validate(merged, origins, path)


def validate(table: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """A recipe from a table of plain values, as in a weights file, with some keys changed. Raises RecipeError."""
    merged, origins = dict[str, Any](), Origins()
    _merge(merged, table, "recipe of the weights", origins)
    _merge(merged, changes, "--set", origins)
    return _validate(merged, origins, Path("of the weights"))


def merge_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`a.b=VALUE` texts as one nested table. Raises RecipeError for a text without `=`."""
    merged: dict[str, Any] = {}
    for setting in settings:
        _merge(merged, _parse_setting(setting), "", {})
    return merged


def _validate(merged: dict[str, Any], origins: Origins, path: Path) -> Recipe:
    merged.setdefault("train", {})
    for key, name in DEFAULT_PARTS.items():
        if isinstance(table := _at(merged, key), dict):
            table.setdefault("name", name)
    recipe, errors = None, []
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        errors = [_explain(e, merged, origins, path) for e in error.errors()]
    lines = list(dict.fromkeys(errors + _check_parts(merged, origins, path)))
    if recipe is None or lines:
        raise RecipeError(report(lines, path))
    return recipe


def report(lines: list[str], path: Path) -> str:
    """All errors of a recipe under one heading."""
    return "\n".join([f"{len(lines)} error{'s'[: len(lines) > 1]} in recipe {path}:", *(f"  {line}" for line in lines)])


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from None


def _merge(into: dict[str, Any], table: dict[str, Any], origin: str, origins: Origins, at: Key = ()) -> None:
    """Merge `table` over `into`; a part with another name replaces the whole part, options and all."""
    for key, value in table.items():
        here, old = (*at, key), into.get(key)
        origins[here] = origin
        if here in DEFAULT_PARTS and isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict):
            old = old if isinstance(old, dict) else {}
            name = old.get("name", DEFAULT_PARTS.get(here))
            into[key] = dict(old) if here not in DEFAULT_PARTS or value.get("name", name) == name else {}
            _merge(into[key], value, origin, origins, here)
        else:
            into[key] = value


def _parse_setting(setting: str) -> dict[str, Any]:
    key, separator, text = setting.partition("=")
    if not separator or not all(part for part in key.split(".")):
        raise RecipeError(f"--set {setting}: write it as key.path=VALUE, for example --set train.lr=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = text
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _explain(error: Any, merged: dict[str, Any], origins: Origins, path: Path) -> str:
    """One line for one pydantic error: file, key path, what is wrong, what would be right."""
    from farcluss.signatures import readable

    location = tuple(str(part) for part in error["loc"] if "[" not in str(part))
    key = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in origins), ())
    origin, name, value = origins.get(key, str(path)), ".".join(key or location), _at(merged, key)
    if error["type"] == "extra_forbidden":
        return f"{origin}: unknown key {name}{suggestion(key[-1], getattr(_kind(key[:-1]), 'model_fields', ()))}"
    if error["type"] == "value_error":
        return f"{origin}: {name}: {error['msg'].removeprefix('Value error, ')}."
    kind = _kind(key)
    expected = "a table" if isinstance(kind, type) and issubclass(kind, Section) else readable(kind)
    return f"{origin}: {name}: must be {expected}, not {value!r}."


def _at(table: Any, key: Key) -> Any:
    for part in key:
        table = table.get(part) if isinstance(table, dict) else None
    return table


def _kind(key: Key) -> Any:
    """The type of a key of a recipe, with its bounds."""
    kind: Any = Recipe
    for part in key:
        if field := getattr(kind, "model_fields", {}).get(part):
            kind = Annotated[field.annotation, field] if field.metadata else field.annotation
        else:  # a key of the author's own, such as a class
            kind = next((get_args(a)[1] for a in get_args(kind) if get_origin(a) is dict), Any)
    return kind


def parts(recipe: Recipe) -> list[tuple[str, str, Part]]:
    """Every plugin that a recipe names: key path, group, part."""
    stages = [(f"stages.{kind}", kind, getattr(recipe.stages, kind)) for kind in Stages.model_fields]
    return [("data.layout", "dataset", recipe.data.layout), ("network", "network", recipe.network), *stages]


_DEFAULTS = parts(Recipe(train=Train(steps=1)))
DEFAULT_PARTS = {tuple(key.split(".")): part.name for key, _, part in _DEFAULTS}


def _check_parts(merged: dict[str, Any], origins: Origins, path: Path) -> list[str]:
    """Errors in the names and options of the plugins, found without importing them where their source can be read."""
    from farcluss import plugins

    lines = []
    for (_, group, default), at in zip(_DEFAULTS, DEFAULT_PARTS, strict=True):
        table = _at(merged, at)
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            continue  # a default, which is fine, or something else, which has been said
        options = {k: v for k, v in table.items() if k not in type(default).model_fields}
        for name, problem in plugins.problems(group, table["name"], options):
            full = (*at, name) if name else at
            origin = next((origins[full[:n]] for n in range(len(full), 0, -1) if full[:n] in origins), str(path))
            lines.append(f"{origin}: {'.'.join(full)}: {problem}")
    return lines
