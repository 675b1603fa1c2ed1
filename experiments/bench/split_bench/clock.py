"""Seconds of a pass over the records, of all contestants of a data set beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

from experiments.bench.split_bench import schema
from experiments.bench.split_bench.contestant import Contestant

LEAST = 0.2  # seconds of a block of timing


def timed(
    keys: Sequence[tuple[str, str]],
    get: Callable[[tuple[str, str]], Contestant],
    blocks: int,
) -> dict[tuple[str, str], dict]:
    """Seconds of a pass: contestants in turn, block by block, so that a busy machine slows all."""
    blocks_of: dict[tuple[str, str], Callable[[], float]] = {}
    found: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    notes = dict.fromkeys(keys, "")
    for key in keys if blocks else ():
        start = get(key).start
        if start is not None:
            try:
                blocks_of[key] = block(start())
            except Exception as error:
                notes[key] = schema.why(error)
    for _ in range(blocks):
        for key, run in list(blocks_of.items()):
            try:
                found[key].append(run())
            except Exception as error:
                notes[key] = schema.why(error)
                found[key] = []
                del blocks_of[key]
    return {
        key: {
            "seconds": statistics.median(each) if each else None,
            "seconds_low": min(each, default=None),
            "seconds_high": max(each, default=None),
            "blocks": len(each),
            "notes": notes[key],
        }
        for key, each in found.items()
    }


def block(run: Callable[[], None]) -> Callable[[], float]:
    """What takes as many passes as the clock can tell, and says the seconds of one."""

    def passes(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - began) / count

    run()  # compiles
    return partial(passes, max(1, round(LEAST / max(passes(1), 1e-4))))
