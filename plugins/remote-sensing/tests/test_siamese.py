"""The network for pairs of images: what must hold of differences, and what it shares with DeepLabV3+."""

import copy

import pytest
import timm
import torch
from commandline import python
from safetensors.torch import save_file
from torch.nn import functional

import farcluss
from farcluss.errors import PluginError, WeightsError
from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import save_weights
from farcluss.networks.bands import bands_of
from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.networks.dpt import dpt
from farcluss.plugins.signatures import describe_object, describe_source
from farcluss_remote_sensing.siamese import siamese, siamese_dpt


def small(channels=6, classes=5, dim=8, pretrained=False, build=siamese, **options):
    torch.manual_seed(0)
    return build(channels, classes, dim, pretrained, **{"encoder": "test_resnet", **options})


def dates(*size, batch=2, channels=3, count=2, seed=0):
    return torch.randn(count, batch, channels, *size, generator=torch.Generator().manual_seed(seed)).unbind(0)


def pair(earlier, later):
    return torch.cat([earlier, later], dim=1)


@pytest.mark.parametrize(
    ("encoder", "output_stride"), [("test_resnet", 8), ("test_resnet", 16), ("test_resnet", 32), ("test_convnext", 16)]
)
def test_shapes_for_any_size(encoder, output_stride):
    network = small(encoder=encoder, output_stride=output_stride).eval()
    for height, width in [(1, 1), (17, 23), (33, 49), (64, 48)]:
        logits, embeddings = network(torch.randn(2, 6, height, width))
        assert logits.shape == (2, 5, height, width)
        assert embeddings.shape == (2, 8, -(-height // 4), -(-width // 4))


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_channels_per_date(channels):
    network = small(2 * channels, dim=0)
    prediction = network(torch.randn(2, 2 * channels, 33, 33))
    assert prediction.logits.shape == (2, 5, 33, 33) and prediction.embeddings is None
    assert network.encoder.encoder.conv1[0].in_channels == channels


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("size", [(33, 49), (30, 41)])
def test_it_is_deeplabs_decoder_on_the_differences_of_two_forwards(encoder, size):
    network = small(encoder=encoder).eval()
    plain = small(3, build=deeplabv3plus, encoder=encoder).eval()  # the same seed, so the same weights
    earlier, later = dates(*size)
    # Sizes by hand: multiples of the stride, plus one where cells sit on pixels.
    wanted = [-(-(extent - plain.centers) // 16) * 16 + plain.centers for extent in size]
    below = (0, wanted[1] - size[1], 0, wanted[0] - size[0])
    maps = [plain.encoder(functional.pad(date, below, mode="replicate")) for date in (earlier, later)]
    features = plain.decoder(*((a - b).abs() for a, b in zip(*maps, strict=True)), plain.centers)
    logits = functional.interpolate(
        plain.classifier(features), size=wanted, mode="bilinear", align_corners=plain.centers
    )
    found = network(pair(earlier, later))
    torch.testing.assert_close(found.logits, logits[..., : size[0], : size[1]], rtol=1e-4, atol=1e-5)
    rows, columns = found.embeddings.shape[-2:]
    torch.testing.assert_close(found.embeddings, plain.embed(features)[..., :rows, :columns], rtol=1e-4, atol=1e-5)


def test_the_first_channels_are_the_earlier_date():
    network = small().eval()
    earlier, later = dates(33, 33)
    seen = []
    network.encoder.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(pair(earlier, later))
    (together,) = seen  # one forward of the encoder
    assert torch.equal(together, torch.cat([earlier, later]))


@pytest.mark.parametrize("training", [False, True])
def test_equal_dates_say_nothing_of_their_content(training):
    network = small().train(training)
    one, other = dates(37, 41)
    for date in (one, other):
        assert [maps.count_nonzero() for maps in network.encoder(pair(date, date))] == [0, 0]
    network.eval()
    assert torch.equal(network(pair(one, one)).logits, network(pair(other, other)).logits)
    assert not torch.equal(network(pair(one, other)).logits, network(pair(one, one)).logits)


def test_the_order_of_the_dates_does_not_matter():
    network = small().eval()
    earlier, later = dates(37, 41)
    there, back = network(pair(earlier, later)), network(pair(later, earlier))
    torch.testing.assert_close(there.logits, back.logits)
    torch.testing.assert_close(there.embeddings, back.embeddings)


def test_a_change_is_seen_where_it_is():
    network = small(dim=0).eval()
    earlier, _ = dates(256, 64, batch=1)
    later = earlier.clone()
    later[..., :16, :] += 3.0
    fine, _ = network.encoder(pair(earlier, later))
    rows = fine.amax((0, 1, 3))
    assert rows[:4].min() > 0.01 and rows[40:].max() == 0


@pytest.mark.parametrize("size", [(1, 1), (17, 23)])
def test_a_batch_of_one_trains_and_gradients_reach_every_parameter(size):
    network = small()
    assert network.training
    logits, embeddings = network(torch.randn(1, 6, *size))
    (logits.square().mean() + embeddings.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert network.encoder.encoder.conv1[0].weight.grad.abs().max() > 0
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_norms_see_both_dates_as_one_batch():
    network, plain = small(), small(3, build=deeplabv3plus)
    earlier, later = dates(33, 33)
    network(pair(earlier, later))
    plain.encoder(torch.cat([earlier, later]))
    found = network.encoder.encoder.state_dict()
    for name, tensor in plain.encoder.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_unused_stages_are_not_trained():
    network = small(encoder="hrnet_w18_small", output_stride=32)
    plain = small(3, build=deeplabv3plus, encoder="hrnet_w18_small", output_stride=32)
    wanted = [p.requires_grad for p in plain.parameters()]
    assert not all(wanted)  # else this proves nothing
    assert [p.requires_grad for p in network.parameters()] == wanted
    prediction = network(torch.randn(2, 6, 33, 33))
    (prediction.logits.sum() + prediction.embeddings.sum()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())


def test_the_head_is_all_but_the_shared_encoder():
    network = small()
    names = dict(network.named_parameters())
    head = {id(names[name]) for name in network.head_parameters()}
    encoder = {id(p) for p in network.encoder.encoder.parameters()}
    assert head and head.isdisjoint(encoder)
    assert head | encoder == {id(p) for p in network.parameters()}


def test_a_weights_file_brings_it_back(tmp_path):
    network, images = small(classes=2).eval(), pair(*dates(33, 33))
    card = Card(
        network="siamese", options={"encoder": "test_resnet"}, channels=6, dim=8, classes=["same", "changed"],
        palette=((0, 0, 0), (255, 0, 0)), mean=[0.5] * 6, std=[0.25] * 6, inference=Inference(), source="teacher",
    )  # fmt: skip
    save_weights(tmp_path / "model.safetensors", network, card)
    model = farcluss.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(model.network(images).logits, network(images).logits)


def test_a_teacher_is_a_copy():
    network, images = small().eval(), pair(*dates(33, 33))
    teacher = copy.deepcopy(network)
    wanted = teacher(images).logits
    with torch.no_grad():
        network.encoder.encoder.conv1[0].weight.zero_()
    assert torch.equal(teacher(images).logits, wanted) and not torch.equal(network(images).logits, wanted)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_file_of_an_encoder_for_rgb_loads(tmp_path, channels):
    torch.manual_seed(7)
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = small(2 * channels, pretrained=str(tmp_path / "w.safetensors"))
    found = network.encoder.encoder.state_dict()
    assert torch.equal(found["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])
    first = state["conv1.0.weight"]
    wanted = first if channels == 3 else torch.cat([first, first[:, :1]], 1) * 3 / 4
    torch.testing.assert_close(found["conv1.0.weight"], wanted)
    assert f"tensors from {tmp_path}/w.safetensors" in network.pretrained_report
    assert ("from 3 to 4 channels" in network.pretrained_report) == (channels == 4)


@pytest.mark.parametrize(("source", "target"), [(deeplabv3plus, siamese), (siamese, deeplabv3plus)])
def test_encoders_of_single_images_and_of_pairs_read_each_others_files(tmp_path, source, target):
    count = {deeplabv3plus: 3, siamese: 6}
    given = small(count[source], build=source)
    torch.save(given.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(1)
    found = target(count[target], 2, 0, str(tmp_path / "w.pth"), encoder="test_resnet")
    for one, other in zip(given.encoder.parameters(), found.encoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_files_that_do_not_fit_are_refused(tmp_path):
    torch.save({"conv1.0.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="encoder test_resnet"):
        small(pretrained=str(tmp_path / "w.pth"))


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(PluginError, match="not 5") as caught:
        small(5)
    assert "data.channels" in str(caught.value) and str(caught.value).count("\n") < 3


def test_its_options_are_those_of_deeplab():
    ours, theirs = describe_object(siamese), describe_object(deeplabv3plus)
    assert ours.options == theirs.options
    assert describe_source("farcluss_remote_sensing.siamese", "siamese") == ours


def test_a_recipe_is_checked_without_torch():
    code = (
        "import sys; from farcluss.plugins.registry import problems; "
        "print(problems('network', 'siamese', {'encodr': 'x'}), 'torch' in sys.modules)"
    )
    result = python(code)
    assert "no such option; did you mean 'encoder'?" in result.out and result.out.endswith(" False\n"), result


def test_options_reach_the_decoder():
    network = small(aspp_dilations=(2, 3), aspp_channels=16, low_level_channels=8, head_channels=24, dropout=0.25)
    plain = small(3, build=deeplabv3plus, aspp_dilations=(2, 3), aspp_channels=16, low_level_channels=8,
                  head_channels=24, dropout=0.25)  # fmt: skip
    assert str(network.decoder) == str(plain.decoder) and str(network.embed) == str(plain.embed)
    assert network.embed[0].in_channels == 24


@pytest.mark.parametrize(("encoder", "said"), [("resnet50z", "did you mean"), ("test_vit", "not return a pyramid")])
def test_unsuitable_encoders_are_refused(encoder, said):
    with pytest.raises(PluginError, match=said):
        small(encoder=encoder)


def small_dpt(channels=6, build=siamese_dpt, **options):
    torch.manual_seed(0)
    return build(channels, 5, 8, False, **{"encoder": "test_vit", "features": 8, **options}).eval()


@pytest.mark.parametrize("fit", ["extend", "resize"])
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (48, 32)])
def test_a_transformer_compares_two_forwards(size, fit):
    """The head reads the differences of the maps that the plain network makes of each date; both orders are equal."""
    network, plain = small_dpt(fit=fit), small_dpt(3, dpt, fit=fit)
    earlier, later = dates(*size)
    with torch.no_grad():
        maps = tuple((a - b).abs() for a, b in zip(plain.encode(earlier), plain.encode(later), strict=True))
        wanted = plain(earlier, maps=maps)
        for found in (network(pair(earlier, later)), network(pair(later, earlier))):
            torch.testing.assert_close(found.logits, wanted.logits)
            torch.testing.assert_close(found.embeddings, wanted.embeddings)
    assert wanted.logits.shape == (2, 5, *size)


def test_a_frozen_transformer_encodes_pairs_once():
    network = small_dpt(frozen=True)
    images = pair(*dates(32, 48))
    with torch.no_grad():
        torch.testing.assert_close(network(images, maps=network.encode(images)).logits, network(images).logits)
    assert network.frozen and not any(parameter.requires_grad for parameter in network.encoder.parameters())


def test_a_transformer_refuses_an_odd_number_of_channels():
    with pytest.raises(PluginError, match=r"^network siamese-dpt compares two images, .* not 5\.\nSet data.channels"):
        small_dpt(5)


@pytest.mark.parametrize(("build", "encoder"), [(siamese, "test_resnet"), (siamese_dpt, "test_vit")])
def test_both_dates_read_the_bands_that_they_name(tmp_path, build, encoder):
    torch.manual_seed(7)
    state = timm.create_model(encoder, in_chans=5, num_classes=0).state_dict()
    torch.save(state, tmp_path / "w.pth")
    bands = bands_of(["B2", "B3", "B4", "B8", "B11"], ["B8", "B3", "B8", "B3"])
    network = build(4, 2, 0, str(tmp_path / "w.pth"), bands, encoder=encoder)
    given = next(tensor for tensor in state.values() if tensor.ndim == 4)
    found = next(tensor for tensor in network.state_dict().values() if tensor.ndim == 4)
    torch.testing.assert_close(found, given[:, [3, 1]] * 5 / 2)
    with pytest.raises(PluginError, match="images of the same bands"):
        build(4, 2, 0, str(tmp_path / "w.pth"), bands_of(["a", "b"], ["a", "b", "b", "a"]), encoder=encoder)
