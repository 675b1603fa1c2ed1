"""What does a step of split training cost, beside one of the whole model in the same process?

A small MLP and a CNN (with BatchNorm and at a larger batch: by default not on a CPU), cut once in
the `vanilla` configuration, SGD with momentum, one batch, float32. The contestants take turns,
block by block (A B C A B C ...), so that a noisy machine disturbs all alike; every ratio is taken
within a round, and the median over the rounds is reported. Bounds asked of jsplit: `fused` at
most 1.03 times the whole model in one jit, `messages` at most 1.15 times on a CNN whose step
takes at least 10 ms, and at most 200 microseconds more on a small MLP.

Beside them runs the split as one would write it by hand in plain JAX, three jits a step.
`messages` runs four: its server sends the cotangent before it computes the gradients of its
weights, and two programs need less memory at a time than one, which on a CPU, where memory is
mapped anew for every large program, is a good part of a step.

PyTorch, where it is installed, trains the same sizes whole and split as other split-learning
codes write it: two optimizers, `detach().requires_grad_()` at the cut, and the returned gradient
into `backward`. All of it as it is, no bound.

    python experiments/bench/step.py [--seconds 150] [--models mlp cnn cnn_norm] [--rounds 200]
    [--out results/bench_step.json]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import optax

from experiments.bench.contestants import SEED, WARM, contestants, timed
from experiments.bench.networks import CLASSES, MODELS, USUAL, Model, torch
from experiments.common.report import write_rows

BLOCK = 0.05  # seconds that a block of steps should take


CONVOLVING = ("cnn", "cnn_norm", "resnet18", "ecg", "volume")


class Ratio(NamedTuple):
    """What is reported: `of / to` within each round, or `of - to` in microseconds.

    Attributes:
        of: a contestant.
        to: another.
        unit: "times" or "us more".
        bound: by model, the most that is asked for.
    """

    of: str
    to: str
    unit: str
    bound: Mapping[str, float]


RATIOS = (
    Ratio(
        "fused",
        "whole",
        "times",
        {"mlp": 1.03, "cnn": 1.03, "cnn_norm": 1.03, "cnn_large": 1.03},
    ),
    Ratio(
        "messages", "whole", "times", {"cnn": 1.15, "cnn_norm": 1.15, "cnn_large": 1.15}
    ),
    Ratio("messages", "whole", "us more", {"mlp": 200.0}),
    Ratio("by hand", "whole", "times", {}),
    Ratio("messages", "by hand", "times", {}),
    Ratio("fused", "whole, faster", "times", {}),
    Ratio("fused, in a loop", "fused", "times", dict.fromkeys(CONVOLVING, 1.2)),
    Ratio(
        "fused, in a loop, checked",
        "fused, in a loop",
        "times",
        dict.fromkeys(CONVOLVING, 1.01),
    ),
    Ratio("fused, by default", "fused", "times", {}),
    Ratio("messages, by default", "messages", "times", {}),
    Ratio("messages recompute", "messages", "times", {}),
    Ratio("torch split", "torch whole", "times", {}),
    Ratio("messages", "torch split", "times", dict.fromkeys(CONVOLVING, 1.25)),
    Ratio("fused", "torch split", "times", dict.fromkeys(CONVOLVING, 1.25)),
)


# Run.


def example(model: Model) -> dict[str, jax.Array]:
    image, label = jax.random.split(jax.random.key(SEED))
    return {
        "image": jax.random.normal(image, (model.batch, *model.shape)),
        "label": jax.random.randint(label, (model.batch,), 0, CLASSES),
    }


def measure(
    model: Model, seconds: float, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds a step of every contestant in every round, and the steps of a block."""
    start = time.perf_counter()
    runs = contestants(model, example(model))
    losses = {name: run(WARM) for name, run in runs.items()}
    for name, loss in losses.items():
        # PyTorch draws other first parameters, so only ours must agree.
        if name.startswith("torch"):
            continue
        if abs(loss - losses["whole"]) > 1e-3 * losses["whole"]:
            raise RuntimeError(
                f"`{name}` computes something else: its loss is {loss}, "
                f"that of the whole model {losses['whole']}."
            )
    steps = max(2, round(BLOCK / timed(runs["whole"], WARM)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        # Each goes first in turn.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            # A step that is not timed wakes what slept while the others ran.
            runs[name](1)
            times[name].append(timed(runs[name], steps))
        if time.perf_counter() - start > seconds and number >= 2:
            break
    return times, steps


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rows_of(
    name: str, model: Model, times: Mapping[str, list[float]], steps: int
) -> tuple[list[dict], list[dict]]:
    """Milliseconds a step by contestant, and the ratios."""
    common = {"model": name, "batch": model.batch, "rounds": len(times["whole"])}
    absolute = [
        {
            **common,
            "contestant": who,
            "steps_per_block": steps,
            "unit": "ms per step",
            **spread([1e3 * t for t in values]),
        }
        for who, values in times.items()
    ]
    relative = []
    for r in RATIOS:
        if r.of in times and r.to in times:
            pairs = zip(times[r.of], times[r.to], strict=True)
            values = spread(
                [a / b if r.unit == "times" else 1e6 * (a - b) for a, b in pairs]
            )
            bound = r.bound.get(name)
            within = None if bound is None else values["median"] <= bound
            relative.append(
                {
                    **common,
                    "of": r.of,
                    "to": r.to,
                    "unit": r.unit,
                    **values,
                    "bound": bound,
                    "within": within,
                }
            )
    return absolute, relative


def machine() -> dict[str, Any]:
    versions = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    device = jax.devices()[0]
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        **versions,
        "optax": optax.__version__,
        "jsplit": version("jsplit"),
        "torch": torch.__version__ if torch else None,
    }


def show(absolute: Sequence[dict], relative: Sequence[dict]) -> None:
    first = absolute[0]
    print(
        f"\n{first['model']}, batch {first['batch']}, {first['rounds']} rounds of blocks "
        f"of {first['steps_per_block']} steps\n"
        f"  {'':36}{'median':>12}{'min':>12}{'max':>12}"
    )
    for row in absolute:
        print(line(f"{row['contestant']}, ms a step", row))
    for row in relative:
        what = f"{row['of']} / {row['to']}"
        if row["unit"] != "times":
            what = f"{row['of']} - {row['to']}, us"
        bound = ""
        if row["bound"] is not None:
            bound = f"  at most {row['bound']:g}: {'yes' if row['within'] else 'NO'}"
        print(line(what, row) + bound)


def line(what: str, row: Mapping) -> str:
    return f"  {what:36}{row['median']:12.3f}{row['min']:12.3f}{row['max']:12.3f}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=150,
        help="time for everything, compilation included",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        help="by default mlp and cnn on a CPU, else all",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=200,
        help="at most so many; at least three are run",
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench_step.json"))
    options = parser.parse_args(argv)
    # PyTorch needs a share of the accelerator's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    names = options.models or USUAL.get(jax.default_backend(), tuple(MODELS))

    result: dict[str, Any] = {"machine": machine(), "rows": [], "ratios": []}
    deadline = time.perf_counter() + options.seconds
    for i, name in enumerate(names):
        # What one model leaves over goes to the next.
        share = (deadline - time.perf_counter()) / (len(names) - i)
        times, steps = measure(MODELS[name], share, options.rounds)
        absolute, relative = rows_of(name, MODELS[name], times, steps)
        show(absolute, relative)
        result["rows"] += absolute
        result["ratios"] += relative

    write_rows(options.out, result)
    return result


if __name__ == "__main__":
    main()
