"""Whether stored tensors are those of a network."""

from collections.abc import Mapping

from torch import Tensor, nn

from farcluss.errors import counted


def misfit(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """How many stored tensors differ from those of a network, and the first, with both shapes; empty for none."""
    wanted, given = ({name: tuple(tensor.shape) for name, tensor in t.items()} for t in (network.state_dict(), tensors))
    wrong = [name for name in (*wanted, *sorted(given.keys() - wanted)) if wanted.get(name) != given.get(name)]
    if not wrong:
        return ""
    first, own = (str(shapes.get(wrong[0], "absent")) for shapes in (given, wanted))
    count = f"{counted(len(wrong), 'tensor')} of {len(wanted):,}"
    return f"{count} differ, the first is {wrong[0]}: {first} in the file, {own} here"
