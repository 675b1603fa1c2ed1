"""How long does it take to cost a large network in every configuration, and how much memory?

ResNet-50 at 224 x 224, batch 32, from shapes alone, in the six configurations of Vepakomma et al.
2018. Where several clients hold fields, each has a stem and a first stage of its own. Asked of
`jsplit.cost`: under 20 s each on two cores, and no weight allocated.

    python experiments/bench/cost.py [--out results/bench_cost.json]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jsplit
from experiments.common.models import CONFIGURATIONS
from experiments.common.report import table, write_rows
from experiments.common.vision import resnet, shapes

BATCH, SIZE = 32, 224
LOSS = optax.softmax_cross_entropy_with_integer_labels
CUTS = {
    "vanilla": ["stage1.2"],
    "u_shaped": ["stage1.2", "stage4.2"],
    "multihop": ["stage1.2", "stage2.3", "stage3.5"],
}


class Views(nnx.Module):
    """Two views of a patient, a stem and a first stage for each, their mean, the other stages,
    and a head for each task.
    """

    def __init__(self, tasks: Sequence[str], *, rngs: nnx.Rngs):
        self.views = nnx.List([resnet(50, rngs=rngs) for _ in range(2)])
        # What of each network is another party's, or nobody's, is taken out.
        for view in self.views:
            del view.stage2, view.stage3, view.stage4, view.fc
        self.tops = nnx.Dict({task: resnet(50, rngs=rngs) for task in tasks})
        for top in self.tops.values():
            del top.conv1, top.norm1, top.stage1

    def __call__(self, front: jax.Array, side: jax.Array) -> dict[str, jax.Array]:
        left, right = self.views
        front_code = jsplit.cut(left.stage(1, left.stem(front)), "front_code")
        side_code = jsplit.cut(right.stage(1, right.stem(side)), "side_code")
        merged = (front_code + side_code) / 2
        outputs = {}
        for task, top in self.tops.items():
            h = top.stage(2, merged)
            # A name marks one place, and with two tasks there would be two of them.
            h = jsplit.cut(h, "middle") if len(self.tops) == 1 else h
            outputs[f"{task}_logits"] = top.fc(
                top.stage(4, top.stage(3, h)).mean((1, 2))
            )
        return outputs


def topology(configuration: str) -> jsplit.Topology:
    image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.float32)
    if configuration in CUTS:
        parts = list(
            jsplit.split(shapes(resnet, 50), image, cuts=CUTS[configuration]).values()
        )
        match configuration:
            case "vanilla":
                return jsplit.vanilla(*parts, loss=LOSS)
            case "u_shaped":
                return jsplit.u_shaped(*parts, loss=LOSS)
        return jsplit.multihop(
            dict(zip(("client", "relay_1", "relay_2", "server"), parts, strict=True)),
            loss=LOSS,
        )
    tasks = ["disease", "stay"] if configuration == "multitask" else ["disease"]
    cuts = ["front_code", "side_code"]
    if configuration == "extended_vanilla":
        cuts.append("middle")
    # With shapes in the place of values: nothing is allocated, which is what is measured.
    model = nnx.eval_shape(lambda: Views(tasks, rngs=nnx.Rngs(0)))
    parts = jsplit.split(
        model, image, image, cuts=cuts, outputs=[f"{t}_logits" for t in tasks]
    )
    bottoms = {"front_clinic": parts["front_code"], "side_clinic": parts["side_code"]}
    match configuration:
        case "vertical":
            return jsplit.vertical(bottoms, parts["disease_logits"], loss=LOSS)
        case "extended_vanilla":
            return jsplit.extended_vanilla(
                bottoms, parts["middle"], parts["disease_logits"], loss=LOSS
            )
    # What is left is "multitask": each server has a task of its own.
    tops = {"hospital": parts["disease_logits"], "registry": parts["stay_logits"]}
    return jsplit.multitask(bottoms, tops, losses=dict.fromkeys(tops, LOSS))


def measure(configuration: str) -> dict[str, Any]:
    """How long it takes to cost one configuration, and what memory grows by."""
    start, before = time.perf_counter(), peak()
    divided = topology(configuration)
    cut = time.perf_counter()
    fields = {}
    for name in divided.fields:
        image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.float32)
        label = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
        fields[name] = label if name.startswith("label") else image
    cost = jsplit.cost(divided, fields, optimizer=optax.adam(1e-3))
    total = cost.total
    return {
        "configuration": configuration,
        "seconds": time.perf_counter() - cut,
        "seconds_before": cut - start,
        "grown_mb": (peak() - before) / 1024,
        "model_mb": (total.params + total.statistics + total.optimizer) / 1e6,
        "macs": total.work().macs,
    }


def peak() -> int:
    """The peak memory of this process, kB; it never falls, so only what is added can be seen."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/bench_cost.json"))
    parser.add_argument(
        "--configurations",
        nargs="+",
        default=list(CONFIGURATIONS),
        choices=CONFIGURATIONS,
        metavar="NAME",
    )
    options = parser.parse_args(arguments)
    rows = [measure(name) for name in options.configurations]
    table(
        f"jsplit.cost of ResNet-50 at {SIZE} x {SIZE}, batch {BATCH}, from shapes",
        [
            "configuration",
            "cost, s",
            "model and cutting, s",
            "peak memory grew, MB",
            "weights, Adam, MB",
            "TMAC a step",
        ],
        [
            [
                r["configuration"],
                f"{r['seconds']:.1f}",
                f"{r['seconds_before']:.1f}",
                f"{r['grown_mb']:.0f}",
                f"{r['model_mb']:.0f}",
                f"{r['macs'] / 1e12:.3f}",
            ]
            for r in rows
        ],
    )
    write_rows(options.out, rows)
    print(f"wrote {options.out}")
    return rows


if __name__ == "__main__":
    main()
