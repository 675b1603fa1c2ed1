"""Rows of plain PyTorch, as split-learning codes write it, on the same records, seeds and weights.

Absent where PyTorch is not installed. A client's and a server's optimizer stand in one loop, and
at the cut is `detach().requires_grad_()`. Clients in turns hand on a state dict; SplitFed averages
state dicts without weights, as its published code does; FedAvg weights clients by their records.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
from flax import nnx

import jsplit
from experiments.bench.networks import torch
from experiments.bench.split_bench import by_fields as six
from experiments.bench.split_bench import clients as many
from experiments.bench.split_bench import torch_parts as parts
from experiments.bench.split_bench.contestant import Contestant, Setting, score
from experiments.common.harness import topology, trainer
from experiments.common.models import network
from experiments.paper.whole_and_split import batches
from jsplit.population import Round

SYSTEM = "pytorch"
CUT = ("whole", "vanilla", "u_shaped", "vertical")
ROUNDS = ("turns, hand-off peer", "SplitFed 1", "FedAvg")
Builders = dict[tuple[str, str], Callable[[], Contestant]]


def configurations(s: Setting) -> Builders:
    """The configurations of one task that PyTorch codes have, and the whole network."""
    if torch is None:
        return {}
    # For networks this small, threads wait for each other longer than they work.
    torch.set_num_threads(1)
    sh = six.Shared(s)
    return {(name, SYSTEM): partial(_configuration, sh, name) for name in CUT}


class Halves:
    """A network by fields in its parts, and an optimizer for each party.

    Args:
        sh: what contestants have in common.
        name: how it is cut.
        seed: of its weights, and of dropout.
    """

    def __init__(self, sh: six.Shared, name: str, seed: int):
        torch.manual_seed(seed)
        family, tasks = sh.family(seed), sh.tasks(1)
        state = nnx.state(network(family, tasks), nnx.Param)
        weights, (self.task,) = nnx.to_pure_dict(state), tasks
        self.fields = list(family.fields)
        self.bottoms = [
            parts.bottom(weights["bottoms"][f], family.fields[f]) for f in self.fields
        ]
        first, last = parts.top(weights["tops"][self.task])
        self.name = name
        cut = name == "u_shaped"
        self.tops = [first, last] if cut else [torch.nn.Sequential(first, last)]
        self.all = torch.nn.ModuleList([*self.bottoms, *self.tops])
        owners = {"whole": [[*self.bottoms, *self.tops]], "vertical": self.all}
        self.optimizers = [
            sgd(part) for part in owners.get(name, [self.bottoms, *self.tops])
        ]

    def forward(self, inputs: Sequence[Any]) -> Any:
        codes = [part(x) for part, x in zip(self.bottoms, inputs, strict=True)]
        h = torch.cat(codes, dim=-1)
        for part in self.tops:
            h = part(h)
        return h

    def step(self, batch: Mapping[str, np.ndarray]) -> None:
        inputs = [parts.tensor(batch[f]) for f in self.fields]
        label = parts.tensor(batch[self.task])
        if self.name != "whole":
            parts.split_step(self.bottoms, self.tops, self.optimizers, inputs, label)
            return
        self.optimizers[0].zero_grad()
        torch.nn.functional.cross_entropy(self.forward(inputs), label).backward()
        self.optimizers[0].step()

    def logits(self, data: Mapping[str, np.ndarray]) -> np.ndarray:
        self.all.eval()
        with torch.no_grad():
            return self.forward([parts.tensor(data[f]) for f in self.fields]).numpy()


def sgd(part: Any) -> Any:
    """Of a module, or of several."""
    module = torch.nn.ModuleList(part) if isinstance(part, list) else part
    return torch.optim.SGD(module.parameters(), lr=six.RATE, momentum=six.MOMENTUM)


def _configuration(sh: six.Shared, name: str) -> Contestant:
    def train(seed: int) -> dict:
        began, one = time.perf_counter(), Halves(sh, name, seed)
        total = sh.s.epochs * sh.steps
        for batch in islice(batches(sh.data(seed), sh.s.batch, seed), total):
            one.step(batch)
        test = sh.data(seed).test
        found = score(one.logits(test), test[one.task])
        seconds = time.perf_counter() - began
        return {
            "rate": six.RATE,
            **found,
            "from_whole": None,
            "seconds_trained": seconds,
        }

    def start() -> Callable[[], None]:
        one = Halves(sh, name, 0)
        drawn = list(islice(batches(sh.data(0), sh.s.batch, 0), sh.steps))

        def run() -> None:
            for batch in drawn:
                one.step(batch)

        return run

    owners = len(sh.family(0).fields) if name == "vertical" else 1
    kind = "baseline" if name == "whole" else "configuration"
    return Contestant(sh.said(name, kind, SYSTEM, owners), train, start)


def clients(s: Setting, rates: Mapping[tuple[str, str], float]) -> Builders:
    """Turns, SplitFed and FedAvg over clients.

    Args:
        s: how much is trained.
        rates: those that were chosen before, by name and system.
    """
    if torch is None or s.network not in ("small", "dense", "convolutional"):
        return {}
    sh = many.Shared(s, rates)
    found: Builders = {}
    for name in ROUNDS:
        found[name, SYSTEM] = partial(_clients, sh, name)
    return found


def _clients(sh: many.Shared, name: str) -> Contestant:
    def trained(seed: int, rate: float, number: int) -> Any:
        low, high = started(sh, seed)
        for drawn in sh.draws(seed, "clients")[:number]:
            pass_over[name](low, high, drawn, rate)
        return torch.nn.Sequential(low, high)

    def judged(net: Any, part: Mapping) -> dict:
        with torch.no_grad():
            return score(net(parts.tensor(part["record"])).numpy(), part["label"])

    def rate_of() -> float:
        number, valid = max(sh.s.rounds // 3, 1), sh.records(0).valid
        return sh.rate(
            (name, SYSTEM),
            lambda r: judged(trained(0, r, number), valid)["accuracy"],
        )

    def train(seed: int) -> dict:
        rate, began = rate_of(), time.perf_counter()
        found = judged(trained(seed, rate, sh.s.rounds), sh.records(seed).test)
        seconds = time.perf_counter() - began
        return {"rate": rate, **found, "from_whole": None, "seconds_trained": seconds}

    def start() -> Callable[[], None]:
        (low, high), rate = started(sh, 0), rate_of()
        drawn = sh.draws(0, "clients")[0]
        return lambda: pass_over[name](low, high, drawn, rate)

    return Contestant(sh.said(name, SYSTEM), train, start)


def started(sh: many.Shared, seed: int) -> tuple[Any, Any]:
    """Both halves with the weights that jsplit's clients start from, of the same seed."""
    data = sh.records(seed)
    one = trainer(topology(sh.s.network, data))
    batch = {f: data.train[f][: sh.s.batch] for f in ("record", "label")}
    weights, _ = jsplit.variables(one.init(jax.random.key(seed), batch))
    return parts.halves(weights, data.train["record"].shape[1:])


def each_client(drawn: Round) -> list[list[tuple[Any, Any]]]:
    """Batches of each client; a record of weight 0 fills a batch and is left out."""
    record, label = (
        parts.tensor(np.asarray(drawn.fields[f])) for f in ("record", "label")
    )
    reads, weight = np.asarray(drawn.reads), np.asarray(drawn.weight)
    found = []
    for client in range(len(reads)):
        own = []
        for places, counts in zip(reads[client], weight[client], strict=True):
            kept = torch.from_numpy(places[counts > 0].astype(np.int64))
            if len(kept):
                own.append((record[kept], label[kept]))
        found.append(own)
    return found


def steps(low: Any, high: Any, own: Sequence[tuple], rate: float) -> None:
    optimizers = [torch.optim.SGD(p.parameters(), lr=rate) for p in (low, high)]
    for record, label in own:
        parts.split_step([low], [high], optimizers, [record], label)


def in_turns(low: Any, high: Any, drawn: Round, rate: float) -> None:
    before = low.state_dict()
    for own in each_client(drawn):
        client = copy.deepcopy(low)
        client.load_state_dict(before)
        steps(client, high, own, rate)
        before = client.state_dict()
    low.load_state_dict(before)


def split_and_averaged(low: Any, high: Any, drawn: Round, rate: float) -> None:
    found = []
    for own in each_client(drawn):
        pair = copy.deepcopy(low), copy.deepcopy(high)
        steps(*pair, own, rate)
        found.append(pair)
    ones = [1.0] * len(found)
    for part, models in zip((low, high), zip(*found, strict=True), strict=True):
        average(part, models, ones)


def averaged(low: Any, high: Any, drawn: Round, rate: float) -> None:
    net, found, sizes = torch.nn.Sequential(low, high), [], []
    for own in each_client(drawn):
        client = copy.deepcopy(net)
        optimizer = torch.optim.SGD(client.parameters(), lr=rate)
        for record, label in own:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(client(record), label).backward()
            optimizer.step()
        found.append(client)
        sizes.append(float(sum(len(label) for _, label in own)))
    average(net, found, sizes)


def average(part: Any, models: Sequence[Any], sizes: Sequence[float]) -> None:
    """Give `part` the mean of the models' state dicts, weighted by sizes."""
    states = [model.state_dict() for model in models]
    total = sum(sizes)
    mean = {}
    for name in states[0]:
        mean[name] = sum(
            x[name] * (n / total) for x, n in zip(states, sizes, strict=True)
        )
    part.load_state_dict(mean)


pass_over = {
    "turns, hand-off peer": in_turns,
    "SplitFed 1": split_and_averaged,
    "FedAvg": averaged,
}
