"""Weights of a part of a network: what the files of the field hold, what loads, and what starts from scratch."""

import dynamic_network_architectures.architectures.unet as library
import pytest
import torch
from torch import nn

from farcluss.errors import PluginError, WeightsError
from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import load, save_weights
from farcluss.networks.bands import bands_of
from farcluss_medical.networks import monai
from farcluss_medical.resenc import resenc

SWIN = {"feature_size": 12, "num_heads": [1, 2, 2, 2], "depths": [2, 1, 1, 1], "window_size": 4}
SEGRES = {"init_filters": 8}
LEVELS = {"features": (4, 6, 8), "blocks": (1, 2, 2), "strides": (1, 2, 2), "kernels": (3, 3, 3)}


def swin(channels=1, pretrained=False, seed=0, **options):
    torch.manual_seed(seed)
    return monai(channels, 3, 4, pretrained, architecture="SwinUNETR", spatial_dims=2, arguments=SWIN, **options)


def own_names(network):
    """The transformer of a SwinUNETR by names within it."""
    return dict(network.model.swinViT.state_dict())


NAMINGS = {
    "MONAI's research contributions": lambda name: "module." + name.replace(".mlp.linear", ".mlp.fc"),
    "MONAI's tutorial": lambda name: "encoder." + name.replace(".0.blocks", ".0.0.blocks").replace(
        ".0.downsample", ".0.0.downsample"
    ),
    "a whole network": lambda name: "swinViT." + name,
    "a wrapped one": lambda name: "module.backbone.swinViT." + name,
    "of the field": lambda name: "module.swin_vit." + name,
    "bare": lambda name: name,
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_self_supervised_transformer_loads_by_any_of_its_names(naming, tmp_path):
    trained = own_names(swin(seed=1))
    state = {NAMINGS[naming](name): tensor for name, tensor in trained.items()}
    state |= {"module.rotation_head.weight": torch.ones(4, 8), "module.norm.weight": torch.ones(8)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "swin.pt")
    network, scratch = swin(pretrained=str(tmp_path / "swin.pt"), part="encoder"), swin()
    found = own_names(network)
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())
    others = {name: tensor for name, tensor in network.state_dict().items() if "swinViT" not in name}
    assert others and all(torch.equal(tensor, scratch.state_dict()[name]) for name, tensor in others.items())
    count = len(trained)
    assert network.pretrained_report.startswith(f"encoder SwinUNETR: {count} of {count} tensors from {tmp_path}")
    assert network.pretrained_report.endswith(
        "from scratch: encoder1, encoder2, encoder3, encoder4, encoder10, decoder5, decoder4, decoder3, decoder2, "
        "decoder1, out"
    )


def test_what_starts_from_scratch_learns_as_the_head_does():
    whole, part = swin(), swin(part="encoder")
    assert set(whole.head_parameters()) < set(part.head_parameters())
    rest = {name for name, _ in part.named_parameters()} - set(part.head_parameters())
    assert rest == {f"model.swinViT.{name}" for name, _ in part.model.swinViT.named_parameters()}


def test_the_encoder_of_a_segresnet_loads_from_a_whole_file(tmp_path):
    """As SuPreM's files are: nested in `net`, with the prefix of a wrapper, and of other classes."""
    torch.manual_seed(1)
    trained = monai(1, 32, 0, False, architecture="SegResNet", arguments=SEGRES).model.state_dict()
    torch.save({"net": {f"module.{name}": tensor for name, tensor in trained.items()}}, tmp_path / "w.pth")
    options = {"architecture": "SegResNet", "arguments": SEGRES}
    network = monai(1, 2, 0, str(tmp_path / "w.pth"), part="encoder", **options)
    loaded = {name for name in trained if torch.equal(network.model.state_dict()[name], trained[name])}
    assert {name for name in trained if name.startswith(("convInit", "down_layers"))} <= loaded
    assert not any(name.startswith(("up_layers.0.0.conv", "up_samples")) for name in loaded)
    assert network.pretrained_report.endswith("from scratch: up_layers, up_samples, conv_final")
    whole = monai(1, 2, 0, str(tmp_path / "w.pth"), **options)
    assert all(torch.equal(whole.model.state_dict()[name], trained[name]) for name in trained if "final" not in name)


def test_other_architectures_say_which_have_encoders():
    with pytest.raises(PluginError, match=r"(?s)DynUNet is read as a whole; SegResNet, SwinUNETR .*part = \"all\""):
        monai(1, 2, 0, False, architecture="DynUNet", part="encoder")


def test_a_file_of_another_window_is_refused(tmp_path):
    torch.save({"state_dict": {f"module.{k}": v for k, v in own_names(swin()).items()}}, tmp_path / "swin.pt")
    with pytest.raises(WeightsError, match=r"relative_position_bias_table.*instead of"):
        monai(1, 3, 0, str(tmp_path / "swin.pt"), architecture="SwinUNETR", spatial_dims=2, part="encoder",
              arguments={**SWIN, "window_size": 5})  # fmt: skip


@pytest.mark.parametrize("part", ["all", "encoder"])
def test_sequences_are_read_by_name_wherever_a_network_meets_the_image(part, tmp_path):
    """SwinUNETR convolves the image three times: in its transformer, and twice beside it."""
    trained = swin(4, seed=1)
    torch.save(trained.model.state_dict(), tmp_path / "w.pt")
    bands = bands_of(["t1", "t1ce", "t2", "flair"], ["flair", "t2", "t1ce", "t1"])
    network = swin(4, str(tmp_path / "w.pt"), part=part, bands=bands)
    image = torch.randn(1, 4, 64, 64)
    trained.eval(), network.eval()
    for before, after in zip(trained.model.swinViT(image, True), network.model.swinViT(image.flip(1), True),
                             strict=True):  # fmt: skip
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    if part == "all":
        one, other = trained.model.encoder1(image), network.model.encoder1(image.flip(1))
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def published(channels=1, classes=2, axes=2, levels=LEVELS, seed=1, **options):
    """The same network as nnU-Net's own package has it."""
    torch.manual_seed(seed)
    flat = axes == 2
    return library.ResidualEncoderUNet(
        channels, len(levels["features"]), list(levels["features"]), nn.Conv2d if flat else nn.Conv3d,
        [[size] * axes if isinstance(size, int) else list(size) for size in levels["kernels"]],
        [[size] * axes if isinstance(size, int) else list(size) for size in levels["strides"]],
        list(levels["blocks"]), classes, [1] * (len(levels["features"]) - 1), True,
        nn.InstanceNorm2d if flat else nn.InstanceNorm3d, {"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def given(model, path):
    """A checkpoint of nnssl of a model."""
    plan = {"key_to_encoder": "encoder.stages", "pretrain_num_input_channels": 1, "key_to_lpe": None}
    torch.save({"network_weights": model.state_dict(), "nnssl_adaptation_plan": plan, "citations": ["a"]}, path)
    return str(path)


ANISOTROPIC = {**LEVELS, "strides": (1, [1, 2, 2], [2, 2, 2]), "kernels": ([1, 3, 3], [3, 3, 3], 3)}


@pytest.mark.parametrize(("axes", "levels"), [(2, LEVELS), (3, LEVELS), (3, ANISOTROPIC)])
def test_resenc_is_nnunets_network(axes, levels, tmp_path):
    """Its logits, from a file of it, once the output layer is given too."""
    model = published(axes=axes, levels=levels)
    network = resenc(1, 2, 0, given(model, tmp_path / "w.pth"), part="all", spatial_dims=axes, **levels)
    network.model.classify.load_state_dict(model.decoder.seg_layers[-1].state_dict())
    image = torch.randn(2, 1, *(8, 16, 24)[-axes:])
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image).logits, model.eval()(image), rtol=1e-5, atol=1e-5)


def test_resenc_has_the_parameters_of_the_published_files():
    """An output layer alone is missing at each coarser level, where nnU-Net learns and farcluss does not."""
    with torch.device("meta"):
        model = published(axes=3, levels={
            "features": (32, 64, 128, 256, 320, 320), "blocks": (1, 3, 4, 6, 6, 6), "strides": (1, 2, 2, 2, 2, 2),
            "kernels": (3,) * 6,
        })  # fmt: skip
    assert len(model.state_dict()) == 956 and sum("decoder" not in name for name in model.state_dict()) == 448
    coarser = sum(parameter.numel() for parameter in model.decoder.seg_layers[:-1].parameters())
    total = sum(parameter.numel() for parameter in model.parameters()) - coarser
    network = resenc(1, 2, 0, False)
    assert sum(parameter.numel() for parameter in network.parameters()) == total == 102_348_226
    assert len(network.model.encoder.state_dict()) == 448 // 2


def test_an_encoder_leaves_the_decoder_from_scratch(tmp_path):
    path = given(published(), tmp_path / "w.pth")
    torch.manual_seed(0)
    scratch = resenc(1, 3, 5, False, spatial_dims=2, embed_stride=2, **LEVELS)
    torch.manual_seed(0)
    network = resenc(1, 3, 5, path, spatial_dims=2, embed_stride=2, **LEVELS)
    encoder = {name for name, _ in network.named_parameters() if name.startswith("model.encoder.")}
    assert encoder == {name for name, _ in network.named_parameters()} - set(network.head_parameters())
    for name, tensor in network.state_dict().items():
        wanted = (
            published().state_dict()[name.removeprefix("model.")] if name in encoder else scratch.state_dict()[name]
        )
        assert torch.equal(tensor, wanted), name
    assert network.pretrained_report.endswith("from scratch: decoder, classify")
    alone = {name.removeprefix("encoder."): tensor for name, tensor in published().state_dict().items()
             if name.startswith("encoder.")}  # fmt: skip
    torch.save(alone, tmp_path / "encoder.pth")
    again = resenc(1, 3, 0, str(tmp_path / "encoder.pth"), spatial_dims=2, **LEVELS)
    for name, tensor in again.model.encoder.state_dict().items():
        assert torch.equal(tensor, published().encoder.state_dict()[name]), name


def test_one_channel_is_the_start_of_four(tmp_path):
    path = given(published(), tmp_path / "w.pth")
    network = resenc(4, 2, 0, path, spatial_dims=2, **LEVELS)
    stem = published().encoder.stem.convs[0].conv.weight
    torch.testing.assert_close(network.model.encoder.stem.convs[0].conv.weight, stem.expand(-1, 4, -1, -1) / 4)
    four = given(published(4), tmp_path / "four.pth")
    with pytest.raises(WeightsError, match=r"(?s)images of 4 bands, these have 1 channel.*data.channel_names"):
        resenc(1, 2, 0, four, spatial_dims=2, **LEVELS)
    read = resenc(1, 2, 0, four, bands_of(["t1", "t1ce", "t2", "flair"], ["flair"]), spatial_dims=2, **LEVELS)
    stem = published(4).encoder.stem.convs[0].conv.weight
    torch.testing.assert_close(read.model.encoder.stem.convs[0].conv.weight, stem[:, 3:] * 4)


@pytest.mark.parametrize("axes", [2, 3])
def test_resenc_takes_any_size_and_learns(axes):
    torch.manual_seed(0)
    network = resenc(2, 3, 5, False, spatial_dims=axes, embed_stride=2, **LEVELS)
    for size in ((1,) * axes, (5, 9, 7)[-axes:]):
        found = network(torch.randn(2, 2, *size))
        assert found.logits.shape == (2, 3, *size)
        assert found.embeddings.shape == (2, 5, *(max(1, extent // 2) for extent in size))
    (found.logits.square().sum() + found.embeddings.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.points == {"encoder": (4, 6, 8), "fused": (4,)}


def test_resenc_comes_back_from_a_weights_file(tmp_path):
    torch.manual_seed(0)
    network = resenc(1, 2, 0, False, spatial_dims=2, **LEVELS).eval()
    options = {"spatial_dims": 2, **{key: list(value) for key, value in LEVELS.items()}}
    card = Card(
        network="resenc", options=options, channels=1, dim=0, mean=[0.0], std=[1.0], classes=["a", "b"],
        palette=((0, 0, 0), (1, 1, 1)), inference=Inference(), source="teacher",
    )  # fmt: skip
    save_weights(tmp_path / "w.safetensors", network, card)
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "w.safetensors").network(image).logits, network(image).logits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": (1, 2)}, "features has 3, blocks has 2, strides has 3, kernels has 3 values"),
        ({"kernels": (3, 4, 3)}, "kernels are odd"),
        ({"strides": (1, [2, 2, 2], 2)}, "one for each axis"),
        ({"pretrained": True}, "no weights that are downloaded"),
    ],
)
def test_resenc_refuses_by_name(options, said):
    with pytest.raises(PluginError, match=said):
        resenc(1, 2, 0, options.pop("pretrained", False), spatial_dims=2, **{**LEVELS, **options})
