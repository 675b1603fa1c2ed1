"""PyTorch's side of bench/rounds.py, as split-learning codes write it: three ways to spend a round.

The whole model alone; clients in turns with a state dict handed on; and SplitFed with a copy for
every client and averaged state dicts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.contestants import MOMENTUM, RATE, SEED
from experiments.bench.networks import torch


class TorchRounds:
    """One round of data, and a model in two halves; each method trains the round once.

    Args:
        halves: gives the client's and the server's module.
        drawn: the round, as `jsplit.population` draws it.
    """

    def __init__(self, halves: Callable[[], tuple], drawn: Any):
        torch.manual_seed(SEED)
        image = np.asarray(drawn.fields["image"])
        # PyTorch has the channels before space.
        if image.ndim > 2:
            image = np.ascontiguousarray(np.moveaxis(image, -1, 1))
        else:
            image = image.copy()
        self.image = torch.from_numpy(image)
        label = np.asarray(drawn.fields["label"]).astype(np.int64)
        self.label = torch.from_numpy(label)
        self.reads = []
        for k, steps in enumerate(drawn.steps):
            places = [drawn.reads[k, s].astype(np.int64) for s in range(steps)]
            self.reads.append([torch.from_numpy(x) for x in places])
        self.criterion = torch.nn.CrossEntropyLoss()
        self.client, self.server = halves()
        self.net = torch.nn.Sequential(self.client, self.server)
        self.whole, self.at_server = sgd(self.net), sgd(self.server)
        self.bottoms = [copy.deepcopy(self.client) for _ in self.reads]

    def split_step(self, client, server, optimizers, reads) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        smashed = client(self.image[reads])
        # Another party's tensor: the graph ends here, and its gradient is handed back by hand.
        received = smashed.detach().requires_grad_()
        self.criterion(server(received), self.label[reads]).backward()
        optimizers[1].step()
        smashed.backward(received.grad)
        optimizers[0].step()

    def alone(self) -> None:
        for reads in (r for turn in self.reads for r in turn):
            self.whole.zero_grad()
            self.criterion(self.net(self.image[reads]), self.label[reads]).backward()
            self.whole.step()

    def turns(self) -> None:
        # The first goes on from where the last of the round before stopped.
        before = self.bottoms[-1]
        for bottom, turn in zip(self.bottoms, self.reads, strict=True):
            bottom.load_state_dict(before.state_dict())
            optimizers, before = [sgd(bottom), self.at_server], bottom
            for reads in turn:
                self.split_step(bottom, self.server, optimizers, reads)

    def splitfed(self) -> None:
        halves = []
        for turn in self.reads:
            low, high = copy.deepcopy(self.client), copy.deepcopy(self.server)
            optimizers = [sgd(low), sgd(high)]
            for reads in turn:
                self.split_step(low, high, optimizers, reads)
            halves.append((low.state_dict(), high.state_dict()))
        parts = (self.client, self.server)
        for part, states in zip(parts, zip(*halves, strict=True), strict=True):
            # As numbers with a fraction: BatchNorm counts its batches in integers.
            mean = {
                n: torch.stack([s[n] for s in states]).double().mean(0).to(x.dtype)
                for n, x in states[0].items()
            }
            part.load_state_dict(mean)


def sgd(part):
    return torch.optim.SGD(part.parameters(), lr=RATE, momentum=MOMENTUM)
