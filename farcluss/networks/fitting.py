"""Whether stored tensors are those of a network."""

from collections.abc import Mapping

from torch import Tensor, nn

from farcluss.errors import counted


def misfit(module: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """How many tensors differ from those of a module, and the first that does, with both shapes; empty for none."""
    wanted, given = ({name: tuple(tensor.shape) for name, tensor in t.items()} for t in (module.state_dict(), tensors))
    wrong = [name for name in (*wanted, *(given.keys() - wanted)) if wanted.get(name) != given.get(name)]
    if not wrong:
        return ""
    first, own = (str(shapes.get(wrong[0], "missing")) for shapes in (given, wanted))
    return f"{counted(len(wrong), 'tensor')} of {len(wanted):,} differ, the first is {wrong[0]}: {first}, not {own}"
