"""Fixtures of the benchmarks: ours is measured by pytest-benchmark, the plain implementation beside it."""

from time import perf_counter

import pytest
import torch


def threads(count):
    """Sets the number of PyTorch's threads until the generator continues."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread():
    """One thread unless a benchmark sets more."""
    yield from threads(1)


@pytest.fixture
def two_threads(one_thread):
    """Two threads for the networks, as in the measurements of the released code."""
    yield from threads(2)


@pytest.fixture
def compare(benchmark):
    """Measures ours and the plain implementation; the row of the table goes into `extra_info`.

    The returned function takes the name of the row, the target as text, ours, the plain one (None: not measured, as it
    would take too long), a note on sizes and the number of rounds of ours. The minimum counts.
    """

    def measure(what, reach, ours, plain=None, *, note="", rounds=5):
        result = benchmark.pedantic(ours, rounds=rounds)
        benchmark.extra_info |= {"what": what, "reach": reach, "note": note}
        if plain:
            benchmark.extra_info["plain_s"] = fastest(plain)
        return result

    return measure


def spent(function, kinds=6) -> str:
    """Share of each kind of operation in the time of a call, measured by PyTorch's profiler; one line."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    parts = []
    for event in events[:kinds]:
        parts.append(f"{event.key.removeprefix('aten::')} {event.self_cpu_time_total / total:.0%}")
    return ", ".join(parts)


def fastest(function, repeats=3, patience=1.0) -> float:
    """Seconds of the fastest call; no further call after `patience` seconds."""
    seconds = []
    while len(seconds) < repeats and sum(seconds) < patience:
        began = perf_counter()
        function()
        seconds.append(perf_counter() - began)
    return min(seconds)
