"""Writing predictions to files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farcluss.data.files import SUFFIXES, read_image
from farcluss.errors import DataError
from farcluss.plugins.options import Share

if TYPE_CHECKING:
    from farcluss.inference.weights import Card, Model


class Step(NamedTuple):
    """Progress of the prediction of a case.

    Attributes:
        share: share of the case that is done, 0 to 1.
        note: message for the user, printed at the end; empty for none.
    """

    share: float
    note: str = ""


class Writer(Protocol):
    """What an entry point of the group `farcluss.writer` returns, called as `build(card, **options)` with a `Card`.

    Attributes:
        suffixes: file name suffixes of its inputs, in lower case with the dot.

    An optional attribute `preparation`, a mapping, says what its card has it do to inputs before the network. Weights
    are averaged only where it is equal.
    """

    suffixes: Sequence[str]

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """Group the files of one folder into cases: name of the prediction, and its input files."""

    def outputs(self, target: Path) -> list[Path]:
        """The files that `predict` writes for `target`, a path without extension."""

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> Iterator[Step] | None:
        """Read one case, predict and write it, at once or step by step.

        Raises:
            FarclussError: names the file. An iterator may raise it at any step.
        """


class PngWriter:
    """Index PNG with the classes' colors as palette; overlay, probability and entropy maps by option.

    For an image `a/b.jpg` it writes `a/b.png`, and beside it `a/b_overlay.png` (image and colors blended),
    `a/b_probs.npy` (float16, `(C, H, W)`) and `a/b_entropy.png` (normalized entropy, 0 black to 1 white).

    Args:
        overlay: also blend the prediction over the image.
        probs: also store the probabilities.
        entropy: also store the normalized entropy.
        alpha: opacity of the colors in the overlay.
    """

    suffixes = tuple(SUFFIXES)

    def __init__(
        self,
        card: "Card",
        *,
        overlay: bool = False,
        probs: bool = False,
        entropy: bool = False,
        alpha: Share = 0.5,
    ) -> None:
        self.colors = np.array(card.palette, np.uint8)
        self.overlay, self.probs, self.entropy, self.alpha = overlay, probs, entropy, alpha

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """Each file is a case."""
        return [(path.stem, (path,)) for path in files]

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> None:
        """Predict one image and write it. Raises FarclussError that names the file."""
        image = read_image(str(files[0]), model.card.channels)
        self.write(target, image, model.probs(image).cpu().numpy())

    def outputs(self, target: Path) -> list[Path]:
        """The files that `write` writes for `target`, a path without extension."""
        extras = {"_overlay.png": self.overlay, "_probs.npy": self.probs, "_entropy.png": self.entropy}
        return [target.with_name(target.name + end) for end in (".png", *(end for end, on in extras.items() if on))]

    def write(self, target: Path, image: NDArray[Any], probs: NDArray[np.float32]) -> None:
        """Write one prediction.

        Args:
            target: path without extension.
            image: `(Cin, H, W)` uint8, or float in [0, 1].
            probs: `(C, H, W)`.
        """
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            classes = probs.argmax(0).astype(np.uint8)
            picture = Image.fromarray(classes)
            picture.putpalette(self.colors.tobytes())
            for path in self.outputs(target):
                kind = path.name.removeprefix(target.name)
                if kind == ".png":
                    picture.save(path)
                elif kind == "_overlay.png":
                    Image.fromarray(blend(image, self.colors[classes], self.alpha)).save(path)
                elif kind == "_probs.npy":
                    np.save(path, probs.astype(np.float16))
                else:
                    Image.fromarray((255 * normalized_entropy(probs)).round().astype(np.uint8)).save(path)
        except OSError as error:
            raise DataError(f"{target.parent} cannot be written: {error.strerror}. Choose another --output.") from None


def normalized_entropy(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of `(C, *S)` over C in [0, 1], as in eq. 5."""
    safe = np.where(probs > 0, probs, 1)
    return np.asarray((-(probs * np.log(safe)).sum(0) / np.log(len(probs))).clip(0, 1))


def blend(image: NDArray[Any], colors: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """Blend colors `(H, W, 3)` over an image `(Cin, H, W)`, shown by its first three channels or its only one."""
    picture = np.moveaxis(image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0), 0, 2)
    picture = picture if picture.dtype == np.uint8 else (255 * picture.clip(0, 1)).round().astype(np.uint8)
    return ((1 - alpha) * picture + alpha * colors).round().astype(np.uint8)
