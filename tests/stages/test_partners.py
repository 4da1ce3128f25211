"""Partners and mixed views are the same however a batch is spread over processes."""

import pytest
import torch
from mixing_processes import BATCH, LEARNED, PERTURBED, RULES, STAGES, STEPS, WORLD, mix_as, mixed

WORLDS = (2, WORLD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of what each process of each group has made; the smaller groups are parts of the largest one."""
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.start_processes(mix_as, (WORLDS, folder), max(WORLDS), start_method="fork")
    return folder


@pytest.mark.parametrize(
    ("name", "world"),
    [
        *((name, world) for name in (*RULES, *STAGES, *PERTURBED) for world in WORLDS),
        *((name, WORLD) for name in LEARNED),
    ],
)
def test_processes_mix_as_one_does(folder, name, world):
    parts = [torch.load(folder / f"{rank}-of-{world}.pt")[name] for rank in range(world)]
    for *rows, whole in zip(*parts, mixed(0, 1)[name], strict=True):
        assert torch.equal(torch.cat(rows), whole)


def test_the_cases_differ():
    """Otherwise their equality would say nothing."""
    found = mixed(0, 1)
    assert found["previous"][0].tolist() == [7, 0, 1, 2, 3, 4, 5, 6]
    assert found["reverse"][0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    shifts = {-int(rows[0]) % BATCH for rows in found["random"]}
    assert shifts & {1, 3, 5, 7} and shifts & {4} and shifts & {2, 6} and not shifts & {0}
    for name in (*STAGES, *PERTURBED, *LEARNED):
        assert len({str(each.tolist()) for each in found[name]}) > STEPS / 2
