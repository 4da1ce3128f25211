"""DPT over vision transformers: sizes, taps, head, freezing, checkpointing, files and refusals."""

import memory
import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from farcluss.errors import PluginError, WeightsError
from farcluss.networks.base import Perturbation
from farcluss.networks.dpt import Head, dpt

SIZES = [(1, 1), (37, 91), (48, 64), (33, 16)]
PATCH = 16


def small(classes=5, dim=8, channels=3, pretrained=False, **options):
    torch.manual_seed(0)
    return dpt(channels, classes, dim, pretrained, **{"encoder": "test_vit", "features": 8, **options})


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        ("vit_small_patch14_dinov2", 24_721_397),
        pytest.param("vit_base_patch14_dinov2", 97_232_853, marks=pytest.mark.slow),
        pytest.param("vit_small_patch14_reg4_dinov2", 24_722_549, marks=pytest.mark.slow),
        ("vit_small_patch16_dinov3", 24_252_149),
    ],
)
def test_it_has_the_published_number_of_parameters(encoder, count):
    """UniMatch V2's own module, without its mask token and the residual unit that it never uses: 21 classes."""
    network = dpt(3, 21, 0, False, encoder=encoder)
    assert parameters(network) == count and all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("fit", ["extend", "resize"])
@pytest.mark.parametrize("encoder", ["test_vit", "test_vit3"])
def test_shapes_for_any_size(encoder, fit):
    network = small(encoder=encoder, fit=fit).eval()
    for height, width in SIZES:
        logits, embeddings = network(torch.randn(2, 3, height, width))
        assert logits.shape == (2, 5, height, width)
        if fit == "extend":
            assert embeddings.shape == (2, 8, -(-height // 4), -(-width // 4))
        else:
            sides = (4 * max(1, int(size / PATCH + 0.5)) for size in (height, width))
            assert embeddings.shape == (2, 8, *sides)


def test_images_of_whole_patches_need_no_fit():
    images = torch.randn(2, 3, 48, 64)
    first, second = (small(fit=fit).eval()(images) for fit in ("extend", "resize"))
    assert torch.equal(first.logits, second.logits) and torch.equal(first.embeddings, second.embeddings)


def test_padding_is_replication_and_resizing_is_bilinear():
    images = torch.randn(1, 3, 37, 50)
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (0, 11), (0, 14)), mode="edge"))
    found, whole = (small().eval()(each).logits for each in (images, padded))
    torch.testing.assert_close(found, whole[..., :37, :50])
    scaled = functional.interpolate(images, size=(32, 48), mode="bilinear", align_corners=True)
    wanted = functional.interpolate(small().eval()(scaled).logits, size=(37, 50), mode="bilinear", align_corners=True)
    torch.testing.assert_close(small(fit="resize").eval()(images).logits, wanted)


def test_taps_are_blocks_behind_the_last_norm_without_tokens():
    network = small(taps=(0, 2, 3, 5)).double().eval()
    seen = []
    for block in network.encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(2, 3, 32, 48).double()
    taps = network.read(network.encoder, images, network.taps)
    tokens = network.encoder.num_prefix_tokens
    assert tokens > 0
    for tap, block in zip(taps, (0, 2, 3, 5), strict=True):
        mean, variance = seen[block].mean(-1, keepdim=True), seen[block].var(-1, unbiased=False, keepdim=True)
        norm = network.encoder.norm
        wanted = (seen[block] - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(tap, wanted[:, tokens:].transpose(1, 2).reshape(tap.shape))


def published(head, maps, size):
    """The head step by step, in the order of the published code: convolutions behind interpolation."""

    def conv(layer, x, **options):
        return functional.conv2d(x, layer.weight, layer.bias, **options)

    def up(x, to):
        return functional.interpolate(x, size=to, mode="bilinear", align_corners=True)

    def unit(residual, x):
        return x + conv(
            residual.second, functional.relu(conv(residual.first, functional.relu(x), padding=1)), padding=1
        )

    first, second, third, fourth = (conv(layer, x) for layer, x in zip(head.project, maps, strict=True))
    first = functional.conv_transpose2d(first, head.scale[0].weight, head.scale[0].bias, stride=4)
    second = functional.conv_transpose2d(second, head.scale[1].weight, head.scale[1].bias, stride=2)
    fourth = conv(head.scale[3], fourth, stride=2, padding=1)
    layers = [conv(layer, x, padding=1) for layer, x in zip(head.reduce, (first, second, third, fourth), strict=True)]
    path = layers[3]
    for level in (3, 2, 1, 0):
        path = path if level == 3 else path + unit(head.merge[level], layers[level])
        to = layers[level - 1].shape[2:] if level else [2 * side for side in path.shape[2:]]
        path = conv(head.mix[level], up(unit(head.refine[level], path), to))
    return up(conv(head.classify[2], functional.relu(conv(head.classify[0], path, padding=1))), size)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 4)])
def test_the_head_is_the_published_one(grid):
    """In float64. 1x1 convolutions commute with interpolation, whose weights add up to 1."""
    torch.manual_seed(0)
    network = small(dim=0).double().eval()
    maps = tuple(torch.randn(2, 64, *grid, dtype=torch.float64) for _ in range(4))
    size = tuple(PATCH * side for side in grid)
    network.read = lambda encoder, images, taps: maps
    found = network(torch.zeros(2, 3, *size, dtype=torch.float64)).logits
    torch.testing.assert_close(found, published(network.head, maps, size), rtol=1e-10, atol=1e-12)
    assert found.std() > 1e-3


def test_every_parameter_learns_and_none_of_the_encoder_is_of_the_head():
    network = small()
    output = network(torch.randn(2, 3, 40, 48))
    (output.logits.square().mean() + output.embeddings.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    heads = network.head_parameters()
    assert {name.partition(".")[0] for name in heads} == {"head", "embed"}
    assert len(heads) + len(list(network.encoder.parameters())) == len(list(network.parameters()))


@pytest.mark.parametrize(("frozen", "learns"), [(True, 0), (0, 6), (2, 4), (6, 0)])
def test_frozen_blocks(frozen, learns):
    encoder = small(frozen=frozen).encoder
    states = [{p.requires_grad for p in block.parameters()} for block in encoder.blocks]
    assert states == [{False}] * (6 - learns) + [{True}] * learns
    assert {p.requires_grad for p in encoder.norm.parameters()} == {frozen is not True}
    for part in (encoder.patch_embed.proj.weight, encoder.pos_embed, encoder.cls_token):
        assert not part.requires_grad


def test_checkpointing_changes_no_gradient():
    found = []
    for checkpointing in (False, True):
        network = small(checkpointing=checkpointing).double()
        network(torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(1)).double()).logits.sum().backward()
        found.append([parameter.grad for parameter in network.encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_checkpointing_lowers_the_peak_of_memory():
    """Of what a step allocates, which is the same on every machine; and a frozen encoder stores next to nothing."""
    images, peaks = torch.randn(1, 3, 160, 160), {}
    for name, options in {"plain": {}, "checkpointed": {"checkpointing": True}, "frozen": {"frozen": True}}.items():
        network = small(encoder="test_vit3", dim=0, **options)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)  # which every variant needs
        peaks[name], _ = memory.peak(lambda network=network: network(images).logits.square().mean().backward())
    assert peaks["checkpointed"] < 0.7 * peaks["plain"] and peaks["frozen"] < 0.7 * peaks["plain"]


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_image_channels(channels):
    assert small(channels=channels).eval()(torch.randn(1, channels, 20, 20)).logits.shape == (1, 5, 20, 20)


def test_perturbed_maps_are_all_four_taps():
    """A factor of all channels is seen by the head alone, and only in the rows that it is drawn for."""
    network = small().eval()
    images, seen = torch.randn(3, 3, 40, 48), []

    def halved(maps, drawn):
        seen.append([tuple(each.shape) for each in maps])
        return tuple(each * drawn for each in maps)

    what = Perturbation(halved, "encoder", (1, 2), (None, torch.tensor(0.5)))
    plain, changed = network(images).logits, network(images, what).logits
    assert seen == [[(2, 64, 3, 3)] * 4] and network.points["encoder"] == (64,) * 4
    torch.testing.assert_close(plain[:1], changed[:1])
    assert (plain[1:] - changed[1:]).abs().amax((1, 2, 3)).min() > 1e-4


class TestFiles:
    def test_of_timm(self, tmp_path):
        given = timm.create_model("test_vit", num_classes=7)
        torch.save(given.state_dict(), tmp_path / "vit.pth")
        network = small(pretrained=str(tmp_path / "vit.pth"))
        for name, tensor in network.encoder.state_dict().items():
            assert torch.equal(tensor, given.state_dict()[name])
        assert "tensors from" in network.pretrained_report and "ignored head" in network.pretrained_report

    @pytest.mark.parametrize("prefix", ["", "module.backbone."])
    def test_of_another_image_size(self, tmp_path, prefix):
        given = timm.create_model("test_vit", num_classes=0, img_size=96)
        torch.save({prefix + name: tensor for name, tensor in given.state_dict().items()}, tmp_path / "vit.pth")
        encoder = small(pretrained=str(tmp_path / "vit.pth")).encoder
        table = given.pos_embed.unflatten(1, (1, -1))[:, 0]
        tokens = given.num_prefix_tokens if table.shape[1] > 36 else 0
        grid = table[:, tokens:].transpose(1, 2).reshape(1, -1, 6, 6)
        wanted = functional.interpolate(grid, size=(10, 10), mode="bicubic", antialias=True)
        torch.testing.assert_close(
            encoder.pos_embed[:, tokens:], wanted.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5
        )
        assert torch.equal(encoder.blocks[3].attn.qkv.weight, given.blocks[3].attn.qkv.weight)

    def test_official_ones_with_registers(self, tmp_path):
        """Of DINOv2: the class token has a position there, registers have another name, a mask token is unused."""
        name = "vit_small_patch14_reg4_dinov2"
        given = timm.create_model(name, num_classes=0)
        official = {key: torch.randn_like(tensor) for key, tensor in given.state_dict().items()}
        official["register_tokens"] = official.pop("reg_token")
        official["pos_embed"] = torch.randn(1, 1 + 37 * 37, 384)
        official["mask_token"] = torch.zeros(1, 384)
        torch.save(official, tmp_path / "official.pth")
        network = dpt(3, 4, 0, str(tmp_path / "official.pth"), encoder=name)
        encoder = network.encoder
        torch.testing.assert_close(encoder.cls_token, official["cls_token"] + official["pos_embed"][:, :1])
        torch.testing.assert_close(encoder.pos_embed, official["pos_embed"][:, 1:])
        assert torch.equal(encoder.reg_token, official["register_tokens"])
        count = len(given.state_dict())
        assert f"{count} of {count} tensors from" in network.pretrained_report
        assert "license apache-2.0" in network.pretrained_report

    def test_of_another_network_are_refused(self, tmp_path):
        torch.save(timm.create_model("test_vit3").state_dict(), tmp_path / "vit.pth")
        with pytest.raises(WeightsError, match=r"fits \d+ of \d+ tensors of encoder test_vit"):
            small(pretrained=str(tmp_path / "vit.pth"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": "resnet18"}, "resnet18 is no vision transformer for images of any size"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, "is no vision transformer for images of any size"),
        ({"encoder": "beit_base_patch16_224"}, "Input height .32. doesn't match model .224."),
        ({"encoder": "vit_smal_patch14_dinov2"}, "did you mean 'vit_small_patch14_dinov2'"),
        ({"taps": (0, 1, 2, 6)}, "test_vit has blocks 0 to 5"),
        ({"taps": (2, 1, 3, 4)}, "four in rising order"),
        ({"frozen": 7}, "test_vit has 6 blocks"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(PluginError, match=said):
        small(**options)


def test_the_head_alone_takes_other_widths():
    network = small(widths=(4, 6, 8, 10), features=12)
    assert [layer.out_channels for layer in network.head.project] == [4, 6, 8, 10] and network.head.features == 12
    assert isinstance(network.head, Head)
