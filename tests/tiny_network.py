"""A network that takes next to no time, and whose result does not depend on how a batch is split, unless asked to."""

from torch import Tensor, nn

from farcluss.networks.base import Perturbation, Prediction, perturbed


class TinyNetwork(nn.Module):
    """Two convolutions in 2-D or 3-D, `width` channels between them; `norm` puts batch statistics there."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        dim: int,
        pretrained: bool | str,
        *,
        axes: int = 2,
        width: int = 8,
        norm: bool = False,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        middle = [nn.BatchNorm2d(width)] if norm else []
        self.body = nn.Sequential(convolution(in_channels, width, 3, padding=1), *middle, nn.ReLU())
        self.classifier = convolution(width, classes, 1)
        self.embed = convolution(width, dim, 1) if dim else None
        self.points = {"encoder": (width,), "fused": (width,)}

    def forward(self, images: Tensor, perturbation: Perturbation | None = None) -> Prediction:
        (features,) = perturbed((self.body(images),), "encoder", perturbation)
        (features,) = perturbed((features,), "fused", perturbation)
        return Prediction(self.classifier(features), self.embed(features) if self.embed else None)

    def head_parameters(self) -> list[str]:
        return [name for name, _ in self.named_parameters() if not name.startswith("body")]
