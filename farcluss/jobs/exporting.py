"""Exporting a trained model as one weights file, and as ONNX."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from farcluss.errors import PluginError, WeightsError
from farcluss.inference.weights import Model, build_network, load, read_card
from farcluss.networks.normalize import Normalize
from farcluss.runs.atomic import unwritable, write_atomically
from farcluss.runs.checkpoints import read_newest
from farcluss.runs.folder import RunFolder


def files_of(source: Path) -> list[Path]:
    """The files that an export of a run directory or weights file may read."""
    return [path for name in ("weights", "checkpoints") for path in (source / name).glob("*")] or [source]


def load_source(source: Path, network: str) -> Model:
    """The model of a run directory (its newest checkpoint), or of a weights file.

    Args:
        source: run directory or `.safetensors` file.
        network: `teacher` or `student`.

    Raises:
        WeightsError, RunError: `source` is neither, holds the other network, or its checkpoint does not fit.
    """
    if source.is_dir():
        folder = RunFolder(source)
        card = read_card(folder.last)
        newest = read_newest(folder.checkpoints)
        model = build_network(card.network, card.options, card.channels, len(card.classes), card.dim, False)
        try:
            model.load_state_dict(newest.state[network])
        except (KeyError, RuntimeError):
            raise WeightsError(
                f"The newest checkpoint of {source} does not fit {folder.last}.\nThey belong to different runs; "
                "train again, or export a weights file."
            ) from None
        scores = {key: value for key, value in card.scores.items() if key in ("teacher_miou", "student_miou")}
        step = newest.manifest.step
        update = {"source": network, "step": step, "scores": scores if card.step == step else {}}
        return Model(model.eval(), card.model_copy(update=update))
    loaded = load(source)
    if loaded.card.source != network:
        raise WeightsError(
            f"{source} holds the {loaded.card.source}, not the {network}.\nExport the {network} from the run directory."
        )
    return loaded


class _ProbabilityModel(nn.Module):
    """Images in [0, 1] to probabilities, normalization included."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.normalize, self.network = Normalize(model.card.mean, model.card.std), model.network

    def forward(self, images: Tensor) -> Tensor:
        probs: Tensor = self.network(self.normalize(images)).logits.softmax(1)
        return probs


def export_onnx(model: Model, path: Path, size: tuple[int, ...]) -> float:
    """Write an ONNX graph from images `(B, Cin, *size)` in [0, 1] to probabilities, and check it against PyTorch.

    The batch is dynamic, the size fixed. Classes and palette are in the graph's metadata.

    Returns:
        The largest absolute difference of a probability on a random input.

    Raises:
        PluginError: the extra `onnx` is not installed.
        WeightsError: the graph disagrees with PyTorch, or cannot be written.
    """
    try:
        import onnx  # noqa: F401 (the exporter needs it)
        import onnxruntime
        import onnxscript  # noqa: F401 (likewise)
    except ImportError as error:
        raise PluginError(f"ONNX export needs {error.name}. Install it: pip install 'farcluss[onnx]'") from None
    module = _ProbabilityModel(model).eval().cpu()
    sample = torch.rand(2, model.card.channels, *size, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        module,
        (sample,),
        dynamo=True,
        input_names=["images"],
        output_names=["probs"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        verbose=False,
    )
    graph = program.model_proto  # type: ignore[union-attr]
    metadata = {"classes": model.classes, "palette": model.card.palette, "range": "images in [0, 1]"}
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=json.dumps(value))
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(sample).numpy()
    difference = float(np.abs(session.run(None, {"images": sample.numpy()})[0] - expected).max())
    if not difference < 1e-3:
        raise WeightsError(f"The graph disagrees with PyTorch by {difference:.1e} on a random input: not written.")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise WeightsError(unwritable(path, error, "path")) from None
    return difference
