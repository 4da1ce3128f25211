"""Distributions as pip leaves them behind, for the tests of plugins. Their modules are called `fake_...`."""

from pathlib import Path
from textwrap import dedent

STAGE = """
    from farcluss.plugins.options import Share
    from farcluss.stages.base import PixelWeight

    class Half(PixelWeight):
        '''Weighs.

        Args:
            share: how much.
        '''

        def __init__(self, *, share: Share = 0.5, required: int):
            super().__init__()
            self.share = share

        def pixels(self, labels, summed):
            return labels.confidence * self.share
"""


def distribute(folder: Path, name: str, entry_points: dict[str, str], modules: dict[str, str], version="1.0") -> None:
    """Install into `folder`: metadata, entry points `group/name = module:attr`, and modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[farcluss.{place.split('/')[0]}]\n{place.split('/')[1]} = {to}\n" for place, to in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, source in modules.items():
        path = folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
