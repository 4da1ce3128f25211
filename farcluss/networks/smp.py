"""Networks of segmentation_models_pytorch, adapted to the contract of networks."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from farcluss.errors import PluginError, short, suggestion
from farcluss.networks.bands import Bands
from farcluss.networks.base import Perturbation, Prediction, perturbed
from farcluss.networks.deeplabv3plus import PooledNorm, check_timm, embedding_head, extend, freeze_unused, resize
from farcluss.networks.pretrained import MatchReport, download_error, load_pretrained, quick_hub

OTHERS = "Take another encoder, such as tu-convnext_tiny, or for a vision transformer the network dpt."
_OURS = {"in_channels", "classes", "encoder_name", "encoder_weights", "activation", "aux_params"}


def smp(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
    *,
    architecture: str = "DeepLabV3Plus",
    encoder: str = "resnet50",
    **options: Any,
) -> "SmpNetwork":
    """Any architecture of segmentation_models_pytorch whose encoder returns feature maps.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads weights, a path reads a file, False starts from scratch.
        bands: which bands of the weights the channels of the images are.
        architecture: Unet, UnetPlusPlus, MAnet, Linknet, FPN, PSPNet, DeepLabV3, DeepLabV3Plus, PAN, UPerNet or
            Segformer.
        encoder: name of an encoder of that library; tu-NAME for the timm encoder NAME.
        **options: further arguments of the architecture, such as encoder_output_stride or decoder_channels.

    Raises:
        PluginError: the library is not installed, or rejects architecture, encoder or options.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    library = _library()
    builder = _builder(library, architecture)
    _check(encoder, library)
    _check_options(builder, encoder, options)
    # For timm encoders the library downloads weights even with encoder_weights=False: only None disables it.
    native = library.encoders.encoders.get(encoder)
    weights = _native_weights(native) if pretrained is True and native else None
    settings = native["pretrained_settings"][weights] if native and weights else {}
    if weights and bands:
        raise PluginError(f"network.pretrained_bands: the weights of {encoder} are read by smp, without names of bands."
                          f"\nSet network.pretrained to a file, or network.encoder to one of timm's.")  # fmt: skip
    arguments = {"encoder_name": encoder, "in_channels": in_channels, "classes": classes, **options}
    try:
        model = builder(**arguments, encoder_weights=None)
    except Exception as error:
        remedy = OTHERS if "downsampling" in str(error) else "Change the options of [network]."
        raise _refusal(architecture, encoder, "cannot be built", error, remedy) from error
    if weights:
        try:
            with quick_hub():
                model = builder(**arguments, encoder_weights=weights)
        except Exception as error:
            where = f"the Hugging Face repository {settings['repo_id']}"
            raise download_error(encoder, "model.safetensors", where, error) from error
        report = f"encoder {encoder}: weights {weights!r} from {settings['repo_id']}"
    else:
        report = _load(model.encoder, encoder, pretrained, bands).summary()
    network = SmpNetwork(model, dim, report)
    try:
        freeze_unused(network, in_channels)
        _try_another_size(network, in_channels)
    except Exception as error:  # encoders for one size refuse others, each in its own way
        swin = encoder.startswith("tu-swin") and options.get("strict_img_size", True)
        remedy = "Set network.strict_img_size = false, with which it takes any size." if swin else OTHERS
        raise _refusal(architecture, encoder, "does not take images of any size", error, remedy) from error
    return network


class SmpNetwork(nn.Module):
    """Wraps a network of the library, so that one forward returns logits and embeddings.

    Attributes:
        pretrained_report: one line on the source of the encoder's weights.
        points: `encoder`, all maps but the image itself; `fused`, the input of the segmentation head.
    """

    def __init__(self, model: Any, dim: int, report: str = "") -> None:
        super().__init__()
        _fix_pooling(model)
        self.model = model
        self.pretrained_report = report
        # Norms must see several values; the decoder of PAN halves the coarsest map three times more.
        self.cells = 16 if type(model).__name__ == "PAN" else 2
        channels = next(m.in_channels for m in model.segmentation_head.modules() if isinstance(m, nn.Conv2d))
        self.embed = embedding_head(channels, dim) if dim else None
        # Some encoders return an empty map where a stride has none.
        self.points = {"encoder": tuple(filter(None, model.encoder.out_channels[1:])), "fused": (channels,)}

    def forward(self, images: Tensor, perturbation: Perturbation | None = None) -> Prediction:
        """Logits and embeddings of images of any size.

        Images are padded at the bottom and right, by replicating their edge, to a multiple of the encoder's stride, at
        least two strides (PAN: sixteen).

        Shape:
            images `(B, Cin, H, W)` -> logits `(B, C, H, W)`, embeddings `(B, D, ceil(H/s), ceil(W/s))` with `s` the
            stride of the decoder's output.
        """
        height, width = images.shape[-2:]
        stride = int(self.model.encoder.output_stride)
        full_height, full_width = (max(self.cells, -(-size // stride)) * stride for size in (height, width))
        maps = self._perturbed(self.model.encoder(extend(images, full_height, full_width)), perturbation)
        (features,) = perturbed((self.model.decoder(maps),), "fused", perturbation)
        logits = resize(self.model.segmentation_head(features), (full_height, full_width))[..., :height, :width]
        if self.embed is None:
            return Prediction(logits, None)
        rows, columns = -(-height * features.shape[-2] // full_height), -(-width * features.shape[-1] // full_width)
        return Prediction(logits, self.embed(features[..., :rows, :columns]))

    def _perturbed(self, maps: list[Tensor], perturbation: Perturbation | None) -> list[Tensor]:
        """The encoder's maps, changed at the point `encoder`."""
        image, *others = maps
        changed = iter(perturbed(tuple(each for each in others if each.shape[1]), "encoder", perturbation))
        return [image, *(next(changed) if each.shape[1] else each for each in others)]

    def head_parameters(self) -> list[str]:
        """Names of all parameters outside the encoder."""
        return [name for name, _ in self.named_parameters() if not name.startswith("model.encoder.")]


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise PluginError("network smp needs segmentation_models_pytorch, which is not installed.\n"
                          "Install it: pip install 'farcluss[smp]'") from error  # fmt: skip
    return segmentation_models_pytorch


def _builder(library: Any, architecture: str) -> Any:
    known = {kind.__name__: kind for kind in library.MODEL_ARCHITECTURES_MAPPING.values()}
    known.pop("DPT", None)  # it fails at most sizes, and is another network than that of published weights
    if architecture == "DPT":
        raise PluginError("network.architecture: DPT of smp does not take images of any size.\n"
                          'Set network.name = "dpt", which takes the same encoders.')  # fmt: skip
    if architecture not in known:
        hint = suggestion(architecture, known)
        raise PluginError(f"network.architecture: smp has no {architecture!r}{hint}\nKnown: {', '.join(known)}.")
    return known[architecture]


def _check(encoder: str, library: Any) -> None:
    if encoder.startswith("mit_"):
        raise PluginError(
            f"network.encoder: {encoder} is refused: its code (mix_transformer, NVIDIA) is licensed for\n"
            "non-commercial use only. Use another encoder, such as resnet50 or tu-convnext_tiny."
        )
    if ":" in encoder:
        raise PluginError(f"network.encoder: {encoder!r} is a URL; give a name, such as tu-resnet50s.")
    if encoder.startswith("tu-"):
        check_timm(encoder.removeprefix("tu-"))
    elif encoder not in library.encoders.encoders:
        known = suggestion(encoder, library.encoders.encoders)
        raise PluginError(f"network.encoder: smp has no encoder {short(encoder)!r}{known}\nWrite tu-NAME for timm's.")


def _check_options(builder: Any, encoder: str, options: dict[str, Any]) -> None:
    """Refuse what the library would ignore: its architectures take any option, and pass it to the encoder alone."""
    if taken := sorted(_OURS & options.keys()):
        raise PluginError(f"network smp: {', '.join(taken)} cannot be set: farcluss sets or does not use it.")
    known = {"output_stride", *inspect.signature(builder).parameters} - _OURS - {"kwargs"}
    unknown = next((name for name in options if name not in known), None)
    if unknown and not encoder.startswith("tu-"):  # timm's encoders take more, and refuse the rest themselves
        hint = suggestion(unknown, known)
        raise PluginError(f"network.{short(unknown)}: {builder.__name__} of smp has no such option{hint}")


def _refusal(architecture: str, encoder: str, what: str, error: Exception, remedy: str) -> PluginError:
    reason = f"{type(error).__name__}: {short(error).rstrip('.')}"
    return PluginError(f"network smp: {architecture} with encoder {encoder} {what}:\n{reason}.\n{remedy}")


def _try_another_size(network: "SmpNetwork", in_channels: int) -> None:
    """Predict a small image of two different sides, so that an encoder for one size fails here."""
    stride = int(network.model.encoder.output_stride)
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, in_channels, 3 * stride, 5 * stride))
    network.train()


def _native_weights(native: dict[str, Any]) -> str | None:
    """Name of the encoder's ImageNet weights, else of its first ones."""
    names = list(native["pretrained_settings"])
    return "imagenet" if "imagenet" in names else next(iter(names), None)


def _load(encoder: Any, name: str, pretrained: bool | str, bands: Bands | None) -> MatchReport:
    """Load the encoder's weights; a timm encoder is in the attribute `model` and has its timm name in `name`."""
    timm_name = getattr(encoder, "name", None)
    return load_pretrained(encoder.model if timm_name else encoder, timm_name or name, pretrained, bands)


def _fix_pooling(model: nn.Module) -> None:
    """Make batch norms after a global pooling work with a batch of one."""
    for block in model.modules():
        if isinstance(block, nn.Sequential) and len(block) and isinstance(block[0], nn.AdaptiveAvgPool2d):
            for parent in list(block.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.BatchNorm2d) and not isinstance(parent, PooledNorm):
                        setattr(parent, name, PooledNorm(child))
