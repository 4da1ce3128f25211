"""The keys of the tables `[loss]` and `[train]`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from farcluss.plugins.options import Count, NonNegative, Positive, PositiveInt, Share
from farcluss.recipes.sections import Section

Moment = Annotated[float, Field(ge=0, lt=1)]


class Loss(Section):
    """Losses and their weights (eq. 11, 12)."""

    supervised: Literal["cross-entropy", "ohem", "dice-cross-entropy"] = Field(
        default="cross-entropy",
        description="loss on labeled images; dice-cross-entropy: cross-entropy plus the soft Dice loss per image and "
        "class, without the background (class 0)",
    )
    ohem_threshold: Share = Field(
        default=0.7, description="ohem: keep pixels whose true class has at most this probability"
    )
    ohem_min_kept: PositiveInt | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.15, description="ohem: minimum number of pixels to keep per image, or share of those not ignored"
    )
    unsupervised: NonNegative = Field(
        default=0.5, description="weight lambda_u of the unsupervised loss; if contrastive is also 0: supervised only"
    )
    view_shares: list[NonNegative] | None = Field(
        default=None,
        description="share of each strong view in the unsupervised loss, which is then the sum of the views' means; "
        "default: one mean over the pixels of all views",
    )
    divisor: Literal["valid", "kept", "all"] = Field(
        default="valid",
        description="pixels over which the unsupervised loss is a mean: the valid ones, those of a weight above 0, or "
        "all, padding too",
    )
    unsupervised_dice: NonNegative = Field(
        default=0.0,
        description="weight, times lambda_u, of the soft Dice loss of strong views against pseudo-labels, per image "
        "and class, without the background (class 0)",
    )
    contrastive: NonNegative = Field(default=0.1, description="weight lambda_c of the contrastive loss")
    warmup_steps: Count = Field(
        default=0, description="first steps on labeled images only; needed when training from scratch"
    )
    ramp_steps: Count = Field(default=0, description="steps after the warm-up in which both weights rise from 0")
    ramp: Literal["linear", "sigmoid", "cosine"] = Field(
        default="linear", description="how they rise: t, exp(-5 (1 - t)^2) or (1 - cos(pi t)) / 2"
    )
    upsampling: Literal["auto", "whole", "bands"] = Field(
        default="auto",
        description="of the student's logits to the size of the image: at once, or in bands within the loss, which "
        "takes much less memory and longer; auto: in bands from 64 classes on, where network and losses can",
    )
    divergence: Literal["kl", "squared", "cross-entropy"] = Field(
        default="kl", description="divergence of the student from a pseudo-label in the unsupervised loss"
    )


class Train(Section):
    """Optimization."""

    steps: PositiveInt | None = Field(default=None, description="optimizer steps; set either steps or epochs")
    epochs: PositiveInt | None = Field(default=None, description="passes over the unlabeled images")
    batch: PositiveInt = Field(
        default=8,
        le=2**16,
        description="labeled images per step over all processes; the same number of unlabeled images",
    )
    accumulate: PositiveInt = Field(
        default=1, description="micro-batches per step and process (gradient accumulation), to save memory"
    )
    compile: bool = Field(
        default=False, description="compile networks and losses; the first steps take minutes, later ones are faster"
    )
    split_backward: bool = Field(
        default=False,
        description="separate forward and backward for labeled images and strong views, to save memory",
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd (with momentum) or adamw")
    lr: Positive = Field(default=0.001, description="peak learning rate of the encoder")
    scale_lr: bool | PositiveInt = Field(
        default=False,
        description="batch size that lr is meant for, to scale lr linearly; true: the recipe's batch before --set",
    )
    head_lr: Positive = Field(default=10.0, description="learning rate of all other parameters, as a multiple of lr")
    momentum: Share = Field(default=0.9, description="momentum of sgd")
    betas: tuple[Moment, Moment] = Field(default=(0.9, 0.999), description="decays of the two averages of adamw")
    nesterov: bool = Field(default=False, description="Nesterov's momentum of sgd")
    weight_decay: NonNegative = Field(
        default=1e-4, description="weight decay; also of norms and biases unless decay_norms = false"
    )
    decay_norms: bool = Field(
        default=True, description="false: no weight decay on norm parameters, biases, tokens and positions"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="factor on the learning rate from each block of the encoder to the one before it"
    )
    freeze_norms: bool = Field(
        default=False, description="batch norms of the student use their running statistics, and do not change them"
    )
    schedule: Literal["poly", "cosine", "constant"] = Field(default="poly", description="learning-rate schedule")
    power: Positive = Field(default=0.9, description="exponent of poly")
    lr_warmup_steps: Count = Field(default=0, description="steps of linear learning-rate warm-up")
    clip: NonNegative = Field(default=0.0, description="maximum gradient norm; 0: no clipping")
    ema: Share = Field(
        default=0.999, description="EMA decay a of the teacher (eq. 1), ramped up as min(a, 1 - 1/(t+1))"
    )
    ema_ramp: bool = Field(default=True, description="false: the decay is a from the first step on")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = Field(
        default=None, description="default: the setting of accelerate"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of initialization, image order and augmentation")
    log_every: PositiveInt = Field(default=50, description="steps between log lines")
    checkpoint_every: PositiveInt = Field(default=1000, description="steps between checkpoints")
    keep_checkpoints: PositiveInt = Field(
        default=2, description="number of checkpoints to keep; older ones are removed"
    )
    max_skipped: PositiveInt = Field(
        default=50,
        description="steps with a non-finite loss or gradient are skipped; stop after this many in a row",
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default=[], description="Accelerate trackers to log to")

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set either steps or epochs, not both" if self.steps else "set steps or epochs")
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Train":
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError('nesterov needs optimizer = "sgd" and a momentum above 0')
        return self

    @property
    def scaled_lr(self) -> float:
        """`lr`, scaled linearly from the batch size that it is meant for."""
        return self.lr if isinstance(self.scale_lr, bool) else self.lr * self.batch / self.scale_lr
