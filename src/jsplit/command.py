"""The command `jsplit`: certificates to try with, the agreement, and one party's process."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jsplit import party as parties
from jsplit.core.base import PyTree
from jsplit.party.contract.agreement import check_addresses

_STOPPED = 3
"""Exit status of a party that was asked to stop before the end; started again, it goes on."""
_INTERRUPTED = 130
"""Exit status after Ctrl-C."""
_BROUGHT = {
    "own",
    "data",
    "optimizer",
    "ids",
    "links",
    "backward",
    "keep_replies",
    "remind",
}
"""What the function of a party may give."""
_PACKAGE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        return options.run(options)
    except (ValueError, parties.Refused, parties.Missing, OSError) as error:
        if options.debug:
            traceback.print_exc()
        print(
            f"jsplit {options.command}: {error}{_whence(error, options)}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"jsplit {options.command}: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _whence(error: BaseException, options: argparse.Namespace) -> str:
    """Where an error came from, if it was raised by the user's own function and not by jsplit."""
    own = str(Path(getattr(options, "function", "").rpartition(":")[0]).resolve())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().is_relative_to(_PACKAGE):
            break
        if str(Path(frame.filename).resolve()) == own:
            return f" (raised in {frame.filename}, line {frame.lineno}; --debug says how it came to that)"
    return ""


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="jsplit",
        description="Split learning between parties on different machines.",
    )
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument(
        "--debug", action="store_true", help="say of an error where it came from"
    )
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "certs",
        parents=[every],
        help="make a throw-away authority and a certificate for every party",
    )
    one.add_argument("folder", type=Path)
    one.add_argument("parties", nargs="+")
    one.add_argument("--days", type=int, default=30)
    one.set_defaults(run=_certs)
    one = commands.add_parser(
        "agree",
        parents=[every],
        help="write the agreement that a Python function gives",
    )
    one.add_argument("agreement", type=Path)
    one.add_argument(
        "function",
        help="file.py:function, which takes nothing and gives a jsplit.party.agreement",
    )
    one.set_defaults(run=_agree)
    one = commands.add_parser(
        "show", parents=[every], help="say what an agreement holds"
    )
    one.add_argument("agreement", type=Path)
    one.set_defaults(run=_show)
    for name, text in (
        ("train", "train"),
        ("evaluate", "the mean losses of"),
        ("predict", "the outputs of"),
    ):
        one = commands.add_parser(
            name,
            parents=[every],
            help=f"{text} one party's part, with the others over the network",
        )
        one.add_argument("agreement", type=Path)
        one.add_argument("party")
        one.add_argument(
            "function",
            help="file.py:function, which takes the party's name and gives the arguments of jsplit.party.run",
        )
        one.add_argument(
            "--checkpoint",
            type=Path,
            required=name != "train",
            help="this party's own folder",
        )
        trust = one.add_mutually_exclusive_group(required=True)
        trust.add_argument(
            "--certs",
            type=Path,
            help="folder with ca.crt, and the party's .crt and .key",
        )
        trust.add_argument(
            "--plaintext-without-identity",
            action="store_true",
            help="no encryption; anyone is believed",
        )
        one.add_argument(
            "--listen",
            help="host:port, where it is not the address that the others dial",
        )
        one.add_argument(
            "--address",
            action="append",
            default=[],
            help="party=host:port, where it is another than agreed",
        )
        one.add_argument(
            "--pulse",
            type=float,
            nargs=2,
            metavar=("EVERY", "WAIT"),
            help="seconds of silence after which a connection is asked, and without an answer after which it is lost",
        )
        one.add_argument(
            "--log", type=Path, help="file for one line of JSON for each step"
        )
        if name == "predict":
            one.add_argument(
                "--out",
                type=Path,
                default=Path("outputs.npz"),
                help="file for the outputs; outputs.npz",
            )
        if name != "train":
            one.add_argument(
                "--records",
                type=int,
                required=True,
                help="how many records there are, the same at all",
            )
            one.add_argument("--client", help="whose records, where clients take turns")
        one.set_defaults(run=_train if name == "train" else _infer)
    return top


def _certs(options: argparse.Namespace) -> int:
    for file in parties.certs(options.folder, options.parties, days=options.days):
        print(file)
    return 0


def _agree(options: argparse.Namespace) -> int:
    agreed = _load(options.function)()
    if not isinstance(agreed, parties.Agreement):
        raise ValueError(
            f"`{options.function}` must give an agreement, got {type(agreed).__name__}."
        )
    print(f"{parties.write(options.agreement, agreed)}  {agreed.hash}")
    return 0


def _show(options: argparse.Namespace) -> int:
    agreed = parties.read(options.agreement)
    print(agreed.topology_of_strangers)
    for wire in agreed.wires:
        print(
            f"  {wire.label}: {json.dumps(agreed['values'][wire.what])}, links {agreed['links'].get(wire.what, 'none')}"
        )
    if agreed["turns"]:
        for client, cast in agreed.turns.clients.items():
            print(
                f"  client {client}: {', '.join(f'{p} is {r}' for r, p in cast.items())}"
            )
        order = ", ".join(
            f"{client} {steps}" for client, steps in agreed["turns"]["order"]
        )
        print(
            f"  turns: {order}, and so on; hand-off {agreed.turns.handoff}, a missing client: {agreed['turns']['missing']}"
        )
    print(
        f"  {agreed['steps']} steps of {agreed['batch']}, seed {agreed['seed']}, a checkpoint every {agreed['checkpoint']}, "
        f"patience {agreed['patience']:g} s"
    )
    print(
        f"  {', '.join(f'{p} listens at {a}' for p, a in agreed['addresses'].items())}, lead {agreed['lead']}"
    )
    print(f"  hash {agreed.hash}")
    return 0


def _train(options: argparse.Namespace) -> int:
    agreed, given, network = _common(options)
    stop, log = (
        threading.Event(),
        options.log.open("a", buffering=1) if options.log else None,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        result = parties.run(
            agreed,
            options.party,
            checkpoint=options.checkpoint,
            stop=stop,
            on_step=Progress(agreed["steps"], log),
            **given,
            **network,
        )
    finally:
        signal.signal(signal.SIGTERM, before)
        if log:
            log.close()
    last = ", ".join(f"{n} {x[-1]:.6f}" for n, x in result.losses.items() if x)
    print(
        f"{options.party}: {'stopped' if result.stopped else 'done'} after step {result.step}{', ' + last if last else ''}"
    )
    return _STOPPED if result.stopped else 0


def _infer(options: argparse.Namespace) -> int:
    agreed, given, network = _common(options)
    if options.client:
        agreed = agreed.of(options.client)
        network["addresses"] = {
            p: x for p, x in network["addresses"].items() if p in agreed.parties
        }
    given = {
        k: v
        for k, v in given.items()
        if k in ("own", "data", "ids", "links", "credentials")
    }
    work = parties.predict if options.command == "predict" else parties.evaluate
    given |= {"checkpoint": options.checkpoint, "records": options.records}
    result = work(agreed, options.party, **given, **network)
    for name, x in result.losses.items():
        print(f"{options.party}: {name} {x:.6f}")
    if options.command == "predict" and result.outputs:
        np.savez(options.out, **_flat(result.outputs))  # type: ignore[arg-type]
        print(options.out)
    elif not result.losses:
        print(f"{options.party}: done, nothing of the result is computed here")
    return 0


def _flat(tree: PyTree, at: str = "") -> dict[str, np.ndarray]:
    """Arrays by the path to them."""
    if isinstance(tree, (Mapping, list, tuple)):
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {
            k: x
            for name, part in parts
            for k, x in _flat(part, f"{at}/{name}" if at else str(name)).items()
        }
    return {at: np.asarray(tree)}


def _common(
    options: argparse.Namespace,
) -> tuple[parties.Agreement, dict[str, Any], dict[str, Any]]:
    """What every party's process needs: the agreement, what the party brings, and how it is reached."""
    agreed = parties.read(options.agreement)
    if options.party not in agreed.parties:
        raise ValueError(
            f"`party` must be one of {', '.join(agreed.parties)}, got {options.party!r}."
        )
    given = _load(options.function)(options.party)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"`{options.function}` must give a dictionary of arguments, got {type(given).__name__}."
        )
    if unknown := given.keys() - _BROUGHT:
        raise ValueError(
            f"`{options.function}` gives `{min(unknown)}`; it may give {', '.join(sorted(_BROUGHT))}."
        )
    plaintext = options.plaintext_without_identity
    trust = (
        parties.PlaintextWithoutIdentity(options.party)
        if plaintext
        else parties.credentials(options.certs, options.party)
    )
    addresses = dict(a.partition("=")[::2] for a in options.address)
    for name, address in addresses.items():
        if not address or name not in agreed.parties:
            raise ValueError(
                f"`--address` must be party=host:port, for one of {', '.join(agreed.parties)}, got {name}={address}."
            )
    if options.listen:
        check_addresses({"--listen": options.listen})
    network: dict[str, Any] = {"listen": options.listen, "addresses": addresses}
    if options.pulse:
        if not min(options.pulse) > 0:
            raise ValueError(
                f"`--pulse` must be two positive numbers of seconds, got {options.pulse}."
            )
        network["pulse"] = tuple(options.pulse)
    return agreed, {**given, "credentials": trust}, network


def _load(spec: str) -> Callable[..., Any]:
    """The function that `file.py:function` names."""
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(
            f"`function` must be file.py:function, and there is no file {file or spec}."
        )
    found = importlib.util.spec_from_file_location(Path(file).stem, file)
    if found is None or found.loader is None:
        raise ValueError(
            f"`function` must be in a Python file, whose name ends in .py; got {file}."
        )
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault(Path(file).stem, module)
    sys.path.insert(0, str(Path(file).resolve().parent))
    found.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"`function` names `{name}`, which {file} does not define.")
    return getattr(module, name)


class Progress:
    """A line on the terminal about once a second, and every step in the log."""

    def __init__(self, steps: int, log: TextIO | None):
        self.steps, self.log, self.last = steps, log, 0.0

    def __call__(self, metrics: parties.Metrics) -> None:
        if self.log:
            self.log.write(
                json.dumps({"time": time.time(), **metrics.plain()}, allow_nan=False)
                + "\n"
            )
        if time.monotonic() - self.last > 1 or metrics.step == self.steps:
            self.last = time.monotonic()
            print(f"[{metrics.step}/{self.steps}] {metrics}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
