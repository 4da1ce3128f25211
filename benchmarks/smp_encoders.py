"""Which encoders the network `smp` takes: for each architecture, the families that build, train, export and predict.

python benchmarks/smp_encoders.py

Prints the table of `docs/encoders.md`, one row per family with its smallest member. An architecture is listed if the
network builds, takes a training step whose gradients are finite, and predicts images of 1x1, 37x91 and 130x70 pixels;
the export to ONNX is tried with the first of them.
"""

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import torch
from recording import record

from farcluss.errors import FarclussError
from farcluss.networks.smp import smp

ARCHITECTURES = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN",
                 "UPerNet", "Segformer")  # fmt: skip
ANY = {"strict_img_size": False}
FAMILIES = {
    "ResNet": ("resnet18", {}), "EfficientNet": ("tu-tf_efficientnet_lite0", {}),
    "MobileNet V3": ("tu-mobilenetv3_small_050", {}), "RegNet": ("tu-regnetx_002", {}),
    "HRNet": ("tu-hrnet_w18_small", {}), "ConvNeXt": ("tu-convnext_atto", {}),
    "ConvNeXt V2": ("tu-convnextv2_atto", {}), "MambaOut": ("tu-mambaout_femto", {}),
    "EdgeNeXt": ("tu-edgenext_xx_small", {}), "FastViT": ("tu-fastvit_t8", {}), "PVT v2": ("tu-pvt_v2_b0", {}),
    "EfficientViT-B": ("tu-efficientvit_b0", {}), "EfficientViT-M": ("tu-efficientvit_m0", {}),
    "SAM 2 Hiera": ("tu-sam2_hiera_tiny", {}), "Swin": ("tu-swin_tiny_patch4_window7_224", ANY),
    "Swin V2": ("tu-swinv2_tiny_window8_256", ANY), "Hiera": ("tu-hiera_tiny_224", {}),
    "MaxViT": ("tu-test_maxvit", {}), "CoAtNet": ("tu-test_coatnet", {}), "ViT, DINOv2, DINOv3": ("tu-test_vit", {}),
}  # fmt: skip


def works(architecture: str, encoder: str, options: dict) -> str:
    """What keeps a pair from working; empty for nothing."""
    try:
        network = smp(3, 4, 4, False, architecture=architecture, encoder=encoder, **options)
        output = network(torch.rand(2, 3, 70, 65))
        (output.logits.square().mean() + output.embeddings.square().mean()).backward()
        gradients = [p.grad for p in network.parameters() if p.requires_grad]
        if any(each is None or not each.isfinite().all() for each in gradients):
            return "a gradient is missing or not finite"
        with torch.no_grad():
            for size in ((1, 1), (37, 91), (130, 70)):
                assert network.eval()(torch.rand(1, 3, *size)).logits.shape == (1, 4, *size)
    except FarclussError as error:
        return f"refused: {str(error).splitlines()[-1]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def exports(architecture: str, encoder: str, options: dict) -> bool:
    """Whether a pair goes to ONNX."""
    network = smp(3, 4, 0, False, architecture=architecture, encoder=encoder, **options).eval()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            torch.onnx.export(network, (torch.rand(1, 3, 64, 64),), io.BytesIO(), dynamo=True)
    except Exception:
        return False
    return True


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    print("| family | tried | architectures | ONNX |\n|---|---|---|---|")
    for family, (encoder, options) in FAMILIES.items():
        faults = {name: works(name, encoder, options) for name in ARCHITECTURES}
        good = [name for name, fault in faults.items() if not fault]
        onnx = exports(good[0], encoder, options) if good else False
        names = "all" if len(good) == len(ARCHITECTURES) else ", ".join(good) or "none"
        print(f"| {family} | `{encoder}` | {names} | {'yes' if onnx else 'no' if good else '-'} |", flush=True)
        found[family] = {"encoder": encoder, "options": options, "faults": faults, "onnx": onnx}
    record("smp_encoders", {"families": found})


if __name__ == "__main__":
    main()
