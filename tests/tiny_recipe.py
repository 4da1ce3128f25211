"""The text of a recipe that trains in a second, on a network without batch statistics (`tiny_network.TinyNetwork`)."""

TEXT = """
[data]
layout = {{ name = "shapes", train = {train}, val = {val}, size = {size} }}
labeled = "{labeled}/{train}"
crop = {size}
workers = 0
[network]
name = "tiny"
{network}
[stages]
augment = {augment}
contrast = {{ name = "prototype", dim = 4, confidence = 0.2 }}
[train]
steps = {steps}
batch = {batch}
lr = {lr}
ema = 0.9
log_every = 1
checkpoint_every = {checkpoint_every}
keep_checkpoints = {keep}
[eval]
every = {every}
"""
USUAL = {"train": 12, "val": 3, "size": 24, "labeled": 4, "augment": '"identity"', "steps": 6, "batch": 4, "lr": 0.05}
USUAL |= {"network": "", "checkpoint_every": 2, "keep": 9, "every": 3}


def tiny_recipe(**changes: object) -> str:
    """The recipe, with other values for some of the blanks in `TEXT`."""
    return TEXT.format(**USUAL | changes)
