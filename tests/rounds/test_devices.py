"""Training on eight devices, and on two processes, gives the numbers of one device.

Virtual devices must be asked for before JAX starts, so the laws (`devices.py`) run in
processes of their own, several in each.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from tempfile import TemporaryFile

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.rounds.devices import ALGORITHMS, LAWS, problem

TOLERANCE = 1e-5
# Of all laws: in some, one bit of the first parameters makes a difference of 1e-5 after
# the last step. And through a link that quantises, one number of a cotangent at the edge
# of two levels may go to the other: "fused, all, dense, residuals, 1" on two devices is then
# 3.3e-5 off in the momentum of one channel of the client, and without a link 1.5e-7 at most.
WIDE = 5e-5
FAST = {
    "in one program": ["splitfed 1, dense, 11"],
    "in a large batch": ["large batch, dense, 11"],
    "at one party": [
        "fused, all, conv, residuals, 2",
        "messages, both, dense, residuals, 1",
    ],
}
TWO = ["splitfed 3, dense, 8", "fused, all, dense, residuals, 1"]
WORK = [law for law in LAWS if law.startswith("work")]
SLOW = [law for law in LAWS if law not in sum(FAST.values(), []) + WORK]
BOTH_PROCESSES = [
    law for law in SLOW if not law.startswith(("messages, server", "messages, both"))
]


def run(
    laws: list[str], *, devices: int, processes: int = 1, seconds: int = 600
) -> list[dict]:
    """By process, what it found about the laws. None of them outlives its time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={devices}"
    )
    ends = time.monotonic() + seconds
    started: list[subprocess.Popen] = []
    # Into files: a process that fills its pipe stands still until somebody reads it, and
    # with it all others, which wait for its part of a sum.
    files = [(TemporaryFile("w+"), TemporaryFile("w+")) for _ in range(processes)]
    try:
        for number, (out, err) in enumerate(files):
            env = os.environ | {
                "XLA_FLAGS": flags,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            if processes > 1:
                env["JSPLIT_PROCESSES"] = f"{address} {number} {processes}"
            command = [
                sys.executable,
                "-W",
                "error::UserWarning",
                "-m",
                "tests.rounds.devices",
                *laws,
            ]
            started.append(subprocess.Popen(command, env=env, stdout=out, stderr=err))
        for process in started:
            # One that is late is killed below, and what it said of itself is shown.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(1, ends - time.monotonic()))
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = []
    for out, err in files:
        with out, err:
            out.seek(0)
            err.seek(0)
            said.append((out.read(), err.read()))
    for process, (_, wrong) in zip(started, said, strict=True):
        assert process.returncode == 0, wrong
    told = [json.loads(out.splitlines()[-1]) for out, _ in said]
    assert all(
        t["devices"] == devices * processes and list(t["found"]) == laws for t in told
    )
    return [t["found"] for t in told]


def hold(found: dict, most: float = TOLERANCE) -> None:
    wrong = {
        law: what
        for law, what in found.items()
        if isinstance(what, str) or not what < most
    }
    assert not wrong, "\n".join(f"{law}: {what}" for law, what in wrong.items())


@pytest.mark.parametrize("laws", FAST.values(), ids=FAST.keys())
def test_eight_devices_give_the_numbers_of_one(laws):
    hold(*run(laws, devices=8))


def test_two_processes_give_the_numbers_of_one():
    for found in run(TWO, devices=1, processes=2):
        hold({TWO[1]: found.pop(TWO[1])}, most=WIDE)
        hold(found)


def test_each_device_does_its_part_of_the_work():
    """Eight times its part would be all of it; what every device has to do besides is small."""
    hold(
        *run(["work of a party", "work of fedavg"], devices=8),
        most=2.5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALGORITHMS, "fused", "messages", "work"])
def test_eight_devices_give_the_numbers_of_one_everywhere(name):
    laws = [law for law in SLOW + WORK if law.startswith(name)]
    found = run(laws, devices=8, seconds=1800)[0]
    hold({law: x for law, x in found.items() if law not in WORK}, most=WIDE)
    hold({law: x for law, x in found.items() if law in WORK}, most=2.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALGORITHMS, "fused", "messages"])
def test_two_processes_give_the_numbers_of_one_everywhere(name):
    laws = [law for law in BOTH_PROCESSES if law.startswith(name)]
    for found in run(laws, devices=4, processes=2, seconds=1800):
        hold(found, most=WIDE)


def mesh_of(axis: str, count: int = 1) -> jax.sharding.Mesh:
    """A mesh of the one device that there is."""
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), (axis,))


def test_a_mesh_of_one_device_changes_nothing():
    topology, batch = problem("dense")
    results = []
    for mesh in (None, mesh_of("batch")):
        train = jsplit.messages(topology, optax.sgd(0.1), mesh=mesh)
        state, info = train.step(train.init(0, batch), batch)
        results.append((info.loss, state.parties["server"].params))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ("cpu", "`mesh` must be a jax.sharding.Mesh, got str"),
        ({"server": 8}, "`mesh` of `server` must be a jax.sharding.Mesh, got int"),
        (
            {"clinic": None},
            "`mesh` names the party `clinic`, which is not one of client, server",
        ),
    ],
)
@pytest.mark.parametrize("interpreter", [jsplit.fused, jsplit.messages])
def test_a_wrong_mesh_is_refused_where_the_trainer_is_built(interpreter, mesh, said):
    with pytest.raises(ValueError, match=said):
        interpreter(problem("dense")[0], optax.sgd(0.1), mesh=mesh)


def test_one_program_needs_one_mesh():
    topology, _ = problem("dense")
    with pytest.raises(
        ValueError,
        match="`client` has none, `server` has {'batch': 1}. In jsplit.messages each",
    ):
        jsplit.fused(topology, optax.sgd(0.1), mesh={"server": mesh_of("batch")})
    trainer = jsplit.messages(
        topology, optax.sgd(0.1), mesh={"server": mesh_of("batch")}
    )
    with pytest.raises(ValueError, match="`mesh` must be the same for all parties"):
        rounds.take_turns(trainer, "client")


@pytest.mark.parametrize("build", [rounds.fedavg, rounds.large_batch_sgd])
def test_clients_need_their_axis_and_no_other_mesh(build):
    topology, _ = problem("dense")
    plain = jsplit.fused(topology, optax.sgd(0.1))
    with pytest.raises(
        ValueError, match="`mesh` must have an axis `clients`, it has batch"
    ):
        build(plain, mesh=mesh_of("batch"))
    with pytest.raises(ValueError, match="`mesh` must be a jax.sharding.Mesh, got int"):
        build(plain, mesh=8)
    with pytest.raises(ValueError, match="`trainer` has one itself"):
        build(
            jsplit.fused(topology, optax.sgd(0.1), mesh=mesh_of("batch")),
            mesh=mesh_of("clients"),
        )
