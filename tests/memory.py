"""Counts what PyTorch allocates on the CPU: the same on every machine, and to the byte."""

from torch.profiler import ProfilerActivity, profile


def peak(function):
    """The most bytes that exist at once while `function` runs, above those before it, and what it gives.

    Both allocations by operations and the temporaries inside them count.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest, result
