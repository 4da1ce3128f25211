"""Optimizer and learning rate. The learning rate is a function of the step, so it has no state to save."""

import math
from typing import Any

import torch
from torch import nn

from farcluss.errors import RecipeError
from farcluss.recipes.training import Loss, Train


def lr_factor(step: int, steps: int, train: Train) -> float:
    """Factor in [0, 1] on every group's learning rate at `step` of `steps`, counted from 0.

    `poly`: `(1 - step / steps)^power`; `cosine`: `(1 + cos(pi step / steps)) / 2`; `constant`: 1; all after a linear
    warm-up.
    """
    warmup = min(1.0, (step + 1) / train.lr_warmup_steps) if train.lr_warmup_steps else 1.0
    progress = min(step / steps, 1.0)
    if train.schedule == "cosine":
        return warmup * (1 + math.cos(math.pi * progress)) / 2
    if train.schedule == "constant":
        return warmup
    return float(warmup * (1 - progress) ** train.power)


def ramp_factor(step: int, loss: Loss) -> float:
    """Factor in [0, 1] on the weights of the unsupervised and contrastive losses, at a step counted from 0.

    With `t` from 0 to 1 during `loss.ramp_steps` after the warm-up: `t`, `exp(-5 (1 - t)^2)` (Laine and Aila, 2017) or
    `(1 - cos(pi t)) / 2`.
    """
    if not loss.ramp_steps:
        return 1.0
    t = min(1.0, (step + 1 - loss.warmup_steps) / loss.ramp_steps)
    return {"linear": t, "sigmoid": math.exp(-5 * (1 - t) ** 2), "cosine": (1 - math.cos(math.pi * t)) / 2}[loss.ramp]


def parameter_groups(network: Any, train: Train) -> list[dict[str, Any]]:
    """Parameters grouped by learning rate and by weight decay, which norms, biases, tokens and positions may lack.

    The head's rate is `head_lr` times the encoder's; each block's is `layer_decay` times that of the next one.

    Raises:
        RecipeError: the network does not tell how deep its parameters are, which `layer_decay` needs.
    """
    head, spared = set(network.head_parameters()), set(getattr(network, "no_weight_decay", set)())
    factors = dict.fromkeys(head, train.head_lr) | layer_factors(network, train.layer_decay)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = train.decay_norms or (parameter.dim() > 1 and name not in spared)
            groups.setdefault((name in head, factors.get(name, 1.0), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": train.scaled_lr * factor,
            "peak_lr": train.scaled_lr * factor,
            "weight_decay": train.weight_decay if decays else 0.0,
        }
        for (_, factor, decays), parameters in groups.items()
    ]


def layer_factors(network: Any, decay: float) -> dict[str, float]:
    """Factors on the learning rate of an encoder's parameters by name: 1 for the deepest ones. Raises RecipeError."""
    if decay == 1:
        return {}
    if not hasattr(network, "depths"):
        raise RecipeError(
            f"train.layer_decay = {decay:g}: {type(network).__name__} does not tell how deep its parameters are.\n"
            'Set train.layer_decay = 1.0, or take a network that does, such as network.name = "dpt".'
        )
    depths: dict[str, int] = network.depths()
    deepest = max(depths.values())
    return {name: decay ** (deepest - depth) for name, depth in depths.items()}


def build_optimizer(network: Any, train: Train) -> torch.optim.Optimizer:
    """The recipe's optimizer over a network with `head_parameters()`.

    The fused kind skips a step by a flag on the device (`found_inf`), without a host sync.
    """
    groups = parameter_groups(network, train)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=train.betas, fused=True)
    optimizer = torch.optim.SGD(
        groups, lr=train.scaled_lr, momentum=train.momentum, nesterov=train.nesterov, fused=True
    )
    if train.momentum:
        # Fused SGD would read uninitialized memory after a skipped first step. Zeros are the same start.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: Any, factor: float) -> float:
    """Set every group's learning rate to `factor` times its peak; returns that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])
