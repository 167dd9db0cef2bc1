"""How long does a call take? What the benchmarks of this folder share."""

import time
from collections.abc import Callable


def fastest(function: Callable, repeat: int = 3) -> float:
    """Seconds of the fastest of `repeat` calls, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
