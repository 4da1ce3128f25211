"""The networks: sizes, shapes, alignment, batches of one, gradients, and what they refuse."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from farcluss.errors import PluginError, WeightsError
from farcluss.networks.deeplabv3plus import ASPP, DeepLabV3Plus, PooledNorm, deeplabv3plus
from farcluss.networks.smp import SmpNetwork, smp
from farcluss.plugins import registry

SIZES = [(1, 1), (17, 23), (33, 49), (64, 48)]


def small(classes=5, dim=8, channels=3, **options):
    torch.manual_seed(0)
    return deeplabv3plus(channels, classes, dim, False, **{"encoder": "test_resnet", **options})


def small_smp(architecture="Unet", encoder="tu-test_resnet", pretrained=False, **options):
    torch.manual_seed(0)
    return smp(3, 5, 8, pretrained, architecture=architecture, encoder=encoder, **options)


def hand_padded(images, height, width):
    """Edge padding at the bottom and right by NumPy."""
    below, right = height - images.shape[-2], width - images.shape[-1]
    return torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="edge"))


def test_the_decoder_has_the_published_layers():
    # pyramid: 1x1, three 3x3, pooling, projection; the rest: low-level, two fuse convolutions, classifier
    network = deeplabv3plus(3, 21, 0, False, encoder="resnet18")
    high, low, a = 512, 64, 256
    aspp = high * a + 3 * 9 * high * a + high * a + 5 * a * a + 6 * 2 * a
    rest = low * 48 + 2 * 48 + 9 * (a + 48) * a + 9 * a * a + 4 * a + a * 21 + 21
    assert sum(dict(network.named_parameters())[n].numel() for n in network.head_parameters()) == aspp + rest


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
def test_shapes_for_any_size(encoder, output_stride):
    network = small(encoder=encoder, output_stride=output_stride).eval()
    for height, width in SIZES:
        logits, embeddings = network(torch.randn(2, 3, height, width))
        assert logits.shape == (2, 5, height, width)
        assert embeddings.shape == (2, 8, -(-height // 4), -(-width // 4))


def test_encoders_that_merge_strides_take_any_size():
    network = small(encoder="hrnet_w18_small", output_stride=32).eval()
    assert network(torch.randn(1, 3, 17, 70)).logits.shape == (1, 5, 17, 70)


def test_no_embeddings_without_a_dimension():
    network = small(dim=0)
    assert network(torch.randn(1, 3, 17, 17)).embeddings is None
    assert not [name for name in network.head_parameters() if "embed" in name]


@pytest.mark.parametrize(("size", "padded"), [((17, 23), (33, 33)), ((50, 34), (65, 49)), ((33, 49), (33, 49))])
def test_extension_is_edge_padding_to_a_multiple_plus_one(size, padded):
    network = small().eval()
    images = torch.randn(1, 3, *size)
    short, long = network(images), network(hand_padded(images, *padded))
    torch.testing.assert_close(short.logits, long.logits[..., : size[0], : size[1]])
    rows, columns = short.embeddings.shape[-2:]
    torch.testing.assert_close(short.embeddings, long.embeddings[..., :rows, :columns])


@pytest.mark.parametrize("size", [(33, 49), (60, 71), (50, 34)])
def test_without_extension_logits_are_those_of_published_code(size):
    """Encoder on the bare image, bilinear upsampling with aligned corners; equal to the extended one at 16 n + 1."""
    network = small(extend=False).eval()
    images = torch.randn(1, 3, *size)
    low, high = network.encoder(images)
    context = functional.interpolate(network.decoder.aspp(high), low.shape[-2:], mode="bilinear", align_corners=True)
    fused = network.decoder.fuse(torch.cat([context, network.decoder.reduce(low)], 1))
    expected = functional.interpolate(network.classifier(fused), size, mode="bilinear", align_corners=True)
    found = network(images)
    torch.testing.assert_close(found.logits, expected)
    assert found.embeddings.shape[-2:] == low.shape[-2:]
    extended = small().eval()
    extended.load_state_dict(network.state_dict())
    assert torch.equal(extended(images).logits, found.logits) == (size == (33, 49))


def test_encoders_that_need_padded_images_refuse_bare_ones():
    with pytest.raises(PluginError, match=r"network\.extend: test_convnext takes padded images only"):
        small(encoder="test_convnext", extend=False)


class Stub(nn.Module):
    """An encoder whose maps are the image itself, sampled or averaged: what comes back must be the image."""

    def __init__(self, sample):
        super().__init__()
        self.sample = sample
        self.feature_info = SimpleNamespace(reduction=lambda: [4, 16], channels=lambda: [1, 1])

    def forward(self, images):
        return [self.sample(images, 4), self.sample(images, 16)]


class Coarse(nn.Module):
    """A decoder that only upsamples the coarse map."""

    fused_channels = 1

    def forward(self, fine, coarse, align_corners, perturbation=None):
        return functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=align_corners)


def ramp(height, width):
    return (2.0 * torch.arange(height)[:, None] + torch.arange(width)).expand(1, 1, height, width)


@pytest.mark.parametrize("size", [(33, 49), (60, 70), (64, 80)])
def test_upsampling_shifts_nothing_when_cells_sit_on_pixels(size):
    network = DeepLabV3Plus(Stub(lambda x, s: x[..., ::s, ::s]), Coarse(), nn.Identity(), nn.Identity(), True)
    image = ramp(*size)
    logits, embeddings = network(image)
    inside = (..., slice(0, 33), slice(0, 49))  # farther out, the repeated edge is no ramp any more
    torch.testing.assert_close(logits[inside], image[inside])
    torch.testing.assert_close(embeddings[..., :9, :13], image[..., 0:33:4, 0:49:4])


def test_upsampling_shifts_nothing_when_cells_tile_the_image():
    network = DeepLabV3Plus(Stub(functional.avg_pool2d), Coarse(), nn.Identity(), None, False)
    image = ramp(64, 80)
    inside = (..., slice(10, -10), slice(10, -10))  # half a coarse cell at the border is flat
    torch.testing.assert_close(network(image).logits[inside], image[inside])


@pytest.mark.parametrize(
    ("encoder", "centers"), [("test_resnet", True), ("test_efficientnet", True), ("test_convnext", False)]
)
def test_where_cells_sit_is_found_out(encoder, centers):
    assert small(encoder=encoder).centers is centers


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("build", [small, small_smp, lambda: small(extend=False)])
def test_a_batch_of_one_trains_and_gradients_reach_every_parameter(build, size):
    network = build()
    assert network.training
    logits, embeddings = network(torch.randn(1, 3, *size))
    (logits.square().mean() + embeddings.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_what_the_forward_never_reaches_is_not_trained():
    network = small_smp("PSPNet", encoder="resnet18")  # its decoder reads no map behind layer2
    assert not any(p.requires_grad for n, p in network.named_parameters() if "layer4" in n)
    logits, embeddings = network(torch.randn(2, 3, 32, 32))
    (logits.sum() + embeddings.sum()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    assert all(p.requires_grad for p in small().parameters())


def test_pooled_norm_of_one_image_is_the_running_norm():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.copy_(torch.tensor([1.0, 2, 3, 4]))
    norm.running_var.copy_(torch.tensor([1.0, 4, 9, 16]))
    before = norm.running_mean.clone()
    one = torch.full((1, 4, 1, 1), 5.0)
    expected = torch.tensor([4.0, 1.5, 2 / 3, 0.25]).view(1, 4, 1, 1)
    torch.testing.assert_close(PooledNorm(norm)(one), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(norm.running_mean, before)


def test_pooled_norm_of_several_images_is_batch_norm():
    ours, plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    values = torch.randn(3, 4, 1, 1)
    torch.testing.assert_close(PooledNorm(ours)(values), plain(values))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_image_pooling_sees_the_whole_image():
    aspp = ASPP(2, 3, (1,), 0.0).eval()
    image = torch.zeros(1, 2, 9, 9)
    image[..., 8, 8] = 100.0
    with_pixel, without = aspp(image), aspp(torch.zeros_like(image))
    aspp.pool[1].weight.data.zero_()
    blind = aspp(image)
    assert not torch.equal(with_pixel[..., 0, 0], without[..., 0, 0])
    assert torch.equal(blind[..., 0, 0], blind[..., 3, 3])


def test_dropout_acts_in_training_only():
    network = small(dropout=0.5)
    image = torch.randn(2, 3, 33, 33)
    assert not torch.equal(network(image).logits, network(image).logits)
    network.eval()
    assert torch.equal(network(image).logits, network(image).logits)


@pytest.mark.parametrize("build", [small, small_smp])
def test_head_parameters_and_encoder_make_up_the_network(build):
    network = build()
    encoder = network.encoder if isinstance(network, DeepLabV3Plus) else network.model.encoder
    head = {id(dict(network.named_parameters())[name]) for name in network.head_parameters()}
    assert head.isdisjoint(id(p) for p in encoder.parameters())
    assert head | {id(p) for p in encoder.parameters()} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_image_channels(channels):
    assert small(channels=channels)(torch.randn(2, channels, 33, 33)).logits.shape == (2, 5, 33, 33)


def test_the_recipe_builds_it_by_name():
    options = {"encoder": "test_resnet", "output_stride": 8, "aspp_dilations": [12, 24]}
    network = registry.build("network", "deeplabv3plus", options, 3, 5, 0, False)
    assert [b[0].dilation for b in network.decoder.aspp.branches] == [(1, 1), (12, 12), (24, 24)]
    assert registry.problems("network", "deeplabv3plus", {"output_stride": 12})[0][0] == "output_stride"
    assert registry.problems("network", "smp", {"architecture": "FPN", "decoder_pyramid_channels": 8}) == []


@pytest.mark.parametrize(
    ("encoder", "stride", "said"),
    [
        ("resnet50z", 16, "did you mean 'resnet50"),
        ("hf-hub:someone/else", 16, "timm has no encoder"),
        ("test_vit", 32, "not return a pyramid"),
        ("swin_tiny_patch4_window7_224", 32, "not return a pyramid"),
        ("densenet121", 16, "output_stride = 16"),
        ("vgg11", 8, "output_stride = 8"),
    ],
)
def test_unsuitable_encoders_are_refused(encoder, stride, said):
    with pytest.raises(PluginError, match=said) as caught:
        small(encoder=encoder, output_stride=stride)
    assert encoder in str(caught.value) and str(caught.value).count("\n") < 3


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "DeepLabV3Plus", "Linknet", "UPerNet", "PAN", "Segformer"])
def test_smp_architectures_take_any_size(architecture):
    network = small_smp(architecture)
    for height, width in SIZES[:2]:
        logits, embeddings = network(torch.randn(1, 3, height, width))  # in training, a batch of one
        assert logits.shape == (1, 5, height, width)
        assert embeddings.shape[:2] == (1, 8) and embeddings.shape[-2] <= height
    assert network.pretrained_report == "encoder test_resnet: from scratch"


@pytest.mark.parametrize(
    ("architecture", "padded"), [("Unet", (64, 96)), ("FPN", (64, 96)), ("DeepLabV3Plus", (64, 80))]
)
def test_smp_gives_what_the_library_gives(architecture, padded):
    network = small_smp(architecture, "resnet18").eval()
    images = torch.randn(1, 3, 50, 70)
    expected = network.model(hand_padded(images, *padded))[..., :50, :70]
    torch.testing.assert_close(network(images).logits, expected)


def test_smp_options_reach_the_architecture():
    network = small_smp("DeepLabV3Plus", decoder_channels=32)
    assert network.embed[0].in_channels == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "unet"}, "did you mean 'Unet'"),
        ({"architecture": "DPT"}, "Set network.name = .dpt."),
        ({"encoder": "mit_b0"}, "non-commercial"),
        (
            {"encoder": "tu-swin_tiny_patch4_window7_224"},
            "Set network.strict_img_size = false",
        ),
        (
            {"encoder": "tu-test_maxvit"},
            "divisible by window (?s:.*)Take another encoder, such as tu-convnext_tiny",
        ),
        ({"architecture": "UPerNet", "encoder": "tu-test_maxvit", "img_size": 64}, "Take another encoder"),
        ({"encoder": "tu-test_vit"}, "downsampling pattern.\nTake another encoder, .* the network dpt"),
        ({"encoder": "tu-hf-hub:someone/else"}, "is a URL"),
        ({"encoder": "resnet1"}, "did you mean 'resnet1"),
        ({"encoder": "tu-resnet1"}, "timm has no encoder"),
        ({"encoder": "resnet18", "decoder_chanels": 8}, "network.decoder_chanels: .* did you mean 'decoder_channels'"),
        ({"aux_params": {"classes": 2}}, "aux_params"),
        ({"colour": 1}, "colour"),
    ],
)
def test_smp_refusals(options, said):
    with pytest.raises(PluginError, match=said) as caught:
        small_smp(**options)
    assert str(caught.value).count("\n") < 3


def test_missing_smp_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(PluginError, match=r"pip install 'farcluss\[smp\]'"):
        small_smp()


@pytest.fixture
def no_downloads(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._hub.load_state_dict_from_url", refuse, raising=False)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
def test_smp_downloads_nothing_unless_asked(no_downloads, encoder):
    assert isinstance(small_smp("FPN", encoder), SmpNetwork)
    with pytest.raises(WeightsError, match="no route to host") as caught:
        small_smp("FPN", encoder, pretrained=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "model.safetensors" in lines[1] and "network.pretrained" in lines[2]


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
def test_smp_reads_a_file(tmp_path, encoder):
    source = small_smp("FPN", encoder)
    torch.save(source.model.encoder.state_dict(), tmp_path / "encoder.pth")
    torch.manual_seed(1)
    network = smp(1, 5, 0, str(tmp_path / "encoder.pth"), architecture="FPN", encoder=encoder)
    pairs = list(zip(source.model.encoder.parameters(), network.model.encoder.parameters(), strict=True))
    torch.testing.assert_close(pairs[0][0].sum(1, keepdim=True), pairs[0][1])
    assert all(torch.equal(a, b) for a, b in pairs[1:])
    assert "from 3 to 1 channels" in network.pretrained_report


def test_listing_networks_needs_no_torch():
    code = "import sys, farcluss.networks; import farcluss.plugins.registry as r; r.get('network', 'smp').describe(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
