"""Laws of parties whose devices belong to several processes; these run `several_processes.py`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.several_processes import numbers, trained

ROOT = Path(__file__).parents[2]


def free_ports():
    """The first of three ports in a row that nobody listens at."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        try:
            for port in range(first, first + 3):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no three free ports in a row")


def run_both(devices):
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    port = str(free_ports())
    script = "tests.training.several_processes"
    both = [
        subprocess.Popen(
            [sys.executable, "-m", script, str(k), port, str(devices)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=ROOT,
        )
        for k in range(2)
    ]
    try:
        outputs = [p.communicate(timeout=300) for p in both]
    finally:
        for p in both:
            p.kill()
    for p, (_, errors) in zip(both, outputs, strict=True):
        assert p.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_parties_in_two_processes_give_the_numbers_of_one(devices):
    state, losses, refused = trained()
    client, server = run_both(devices)
    for party, found in (("client", client), ("server", server)):
        # Every process knows the loss, and all judge alike what is refused.
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
        assert found["refused"] == refused
        for kind in ("params", "state"):
            wanted = numbers(getattr(state.parties[party], kind))
            for a, b in zip(found[kind], wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert client["losses"] == server["losses"]
    assert client["params"]
    assert server["params"]
