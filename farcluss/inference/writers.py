"""Writing predictions to files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farcluss.data.files import SUFFIXES, read_image
from farcluss.data.masks import rgb
from farcluss.data.oddities import several_pages
from farcluss.errors import DataError
from farcluss.inference.probs import check_finite, uncertainty
from farcluss.plugins.options import Share
from farcluss.runs.atomic import atomic_file, save_array, unwritable

if TYPE_CHECKING:
    from farcluss.inference.card import Card
    from farcluss.inference.weights import Model


class Step(NamedTuple):
    """Progress of the prediction of a case.

    Attributes:
        share: share of the case that is done, 0 to 1.
        note: message for the user, printed at the end; empty for none.
    """

    share: float
    note: str = ""


Case = tuple[str, tuple[Path | str, ...]]
"""Name of a prediction, and its input files; text where they are no files here, such as addresses."""


class Writer(Protocol):
    """What an entry point of the group `farcluss.writer` returns, called as `build(card, **options)` with a `Card`.

    Attributes:
        suffixes: file name suffixes of its inputs, in lower case with the dot.

    An optional attribute `preparation`, a mapping, says what its card has it do to inputs before the network. Weights
    are averaged only where it is equal. An optional method `oddities(files) -> list[str]` gives notes about input
    files, known before the first prediction. An optional method `named(text) -> list[Case] | None` gives the
    cases of an input that is no image, folder or glob, such as a table or an address; None for one that is. Optional
    methods `joint(folder) -> list[Path]` and `finish(folder)` name and write files for all predictions, at the end.
    """

    suffixes: Sequence[str]

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """Group the files of one folder into cases: name of the prediction, and its input files."""

    def outputs(self, target: Path) -> list[Path]:
        """The files that `predict` writes for `target`, a path without extension."""

    def predict(self, model: "Model", files: tuple[Any, ...], target: Path) -> Iterator[Step] | None:
        """Read one case, its files as the writer gave them, predict and write it, at once or step by step.

        Raises:
            FarclussError: names the file. An iterator may raise it at any step.
        """


class PngWriter:
    """PNG with the training masks' values and the classes' colors; overlay, probability and entropy maps by option.

    For an image `a/b.jpg` it writes `a/b.png`, which can serve as a mask, and beside it `a/b_overlay.png` (image and
    colors blended, but for black ones), `a/b_probs.npy` (float16, `(C, H, W)`) and `a/b_entropy.png` (normalized
    entropy, 0 black to 1 white). Classes that masks give as colors have their index, and these colors. Values above 255
    make a gray PNG of 16 bits. Where a value is below 0 or above 65535, class indices are written, and it says so.

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
        self.values, self.shown, self.note = mask_format(card)
        self.overlay, self.probs, self.entropy, self.alpha = overlay, probs, entropy, alpha

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """Each file is a case."""
        return [(path.stem, (path,)) for path in files]

    def oddities(self, files: Sequence[Path]) -> list[str]:
        """Notes about files of several pages."""
        return several_pages(map(str, files))

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> Iterator[Step]:
        """Predict one image and write it. Raises FarclussError that names the file."""
        image = read_image(str(files[0]), model.card.channels)
        probs = model.probs(image).cpu().numpy()
        check_finite(probs, str(files[0]))
        self.write(target, image, probs)
        yield Step(1.0, self.note)
        self.note = ""  # once is enough

    def outputs(self, target: Path) -> list[Path]:
        """The files that `write` writes for `target`, a path without extension."""
        extras = {"_overlay.png": self.overlay, "_probs.npy": self.probs, "_entropy.png": self.entropy}
        return [target.with_name(target.name + end) for end in (".png", *(end for end, on in extras.items() if on))]

    def write(self, target: Path, image: NDArray[Any], probs: NDArray[np.float32]) -> None:
        """Write one prediction; each file is whole, or not there.

        Args:
            target: path without extension.
            image: `(Cin, H, W)` uint8, or float.
            probs: `(C, H, W)`.

        Raises:
            DataError: a file cannot be written.
        """
        classes = probs.argmax(0)
        for path in self.outputs(target):
            try:
                with atomic_file(path) as file:
                    kind = path.name.removeprefix(target.name)
                    if kind == ".png":
                        self._mask(classes).save(file, "PNG")
                    elif kind == "_overlay.png":
                        Image.fromarray(blend(image, self.colors[classes], self.alpha)).save(file, "PNG")
                    elif kind == "_probs.npy":
                        save_array(file, probs.astype(np.float16))
                    else:
                        entropy = (255 * uncertainty(probs)).round()
                        Image.fromarray(entropy.astype(np.uint8)).save(file, "PNG")
            except OSError as error:
                raise DataError(unwritable(path, error, "--output")) from None

    def _mask(self, classes: NDArray[np.int64]) -> Image.Image:
        picture = Image.fromarray(self.values[classes])
        if self.values.dtype == np.uint8:
            palette = np.zeros((int(self.values.max()) + 1, 3), np.uint8)
            palette[self.values] = self.shown
            picture.putpalette(palette.tobytes())
        return picture


def mask_format(card: "Card") -> tuple[NDArray[Any], NDArray[np.uint8], str]:
    """How a prediction looks as a mask of the training data.

    Returns:
        Value of each class `(C,)`, uint8 or uint16; its color `(C, 3)`; and why values are not those of the masks,
        empty if they are.
    """
    given = card.mask_values or list(range(len(card.classes)))
    values, colors, note = [value for value in given if isinstance(value, int)], list(card.palette), ""
    if not values:
        colors = [rgb(int(str(color).removeprefix("#"), 16)) for color in given]
    elif min(values) < 0 or max(values) > 65535:
        note = f"Predictions hold class indices: no PNG holds the mask values {min(values)} to {max(values)}."
    values = list(range(len(given))) if note or not values else values
    return np.array(values, np.uint8 if max(values) < 256 else np.uint16), np.array(colors, np.uint8), note


def blend(image: NDArray[Any], colors: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """Blend colors `(H, W, 3)` over an image `(Cin, H, W)`; black, the usual background, leaves it as it is."""
    opacity = alpha * colors.any(-1, keepdims=True)
    return ((1 - opacity) * to_picture(image) + opacity * colors).round().astype(np.uint8)


def to_picture(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image `(Cin, H, W)` as `(H, W, 3)`: its first three channels, or the first in gray.

    Floats that are not in [0, 1] are scaled from their smallest to their largest value.
    """
    shown = np.moveaxis(image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0), 0, 2)
    if shown.dtype == np.uint8:
        return shown
    low, high = shown.min(), shown.max()
    if low < 0 or high > 1:
        shown = (shown - low) / max(high - low, 1e-6)
    picture: NDArray[np.uint8] = np.nan_to_num(255 * shown).round().astype(np.uint8)  # a broken step's may hold NaN
    return picture
