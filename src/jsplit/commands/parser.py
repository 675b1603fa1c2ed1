"""What `jsplit` can be asked on the command line; each command names the function that does it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import jsplit
from jsplit.commands import agreements, asking, epochs, report, serving, tasks
from jsplit.guarding.evidence import POLICIES


class _Version(argparse.Action):
    """Print the version and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Not argparse's own action, which would want the text when the parser is built,
        # whether or not anybody asks.
        print(f"jsplit {jsplit.__version__}")
        parser.exit()


class _Commands:
    """The commands of a parser, to which one after the other is added."""

    def __init__(self, top: argparse.ArgumentParser):
        self.commands = top.add_subparsers(dest="command", required=True)
        # An option of all commands and not of `top`: people write it at the end.
        self.every = argparse.ArgumentParser(add_help=False)
        self.every.add_argument(
            "--debug", action="store_true", help="say of an error where it came from"
        )

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        one = self.commands.add_parser(name, parents=[self.every], help=help)
        one.set_defaults(run=run)
        return one


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Returns:
        A parser whose results have `command`, `debug` and `run`, the function that does
        the command and gives its exit status.
    """
    top = argparse.ArgumentParser(
        prog="jsplit",
        description="Split learning between parties on different machines.",
    )
    top.add_argument(
        "--version", action=_Version, nargs=0, help="say which version this is"
    )
    commands = _Commands(top)
    _add_agreements(commands)
    train = commands.add("train", tasks.train, _help_of("train"))
    _add_task(train, checkpoint=False)
    _add_guard(train)
    epochs.add_options(train)
    evaluate = commands.add("evaluate", tasks.infer, _help_of("the mean losses of"))
    _add_task(evaluate, checkpoint=True)
    _add_records(evaluate)
    predict = commands.add("predict", tasks.infer, _help_of("the outputs of"))
    _add_task(predict, checkpoint=True)
    _add_records(predict)
    predict.add_argument(
        "--out",
        type=Path,
        default=Path("outputs.npz"),
        help="file for the outputs; outputs.npz",
    )
    serve = commands.add("serve", serving.serve, _help_of("what others ask:"))
    _add_task(serve, checkpoint=True)
    serving.add_options(serve)
    ask = commands.add(
        "ask", asking.ask, "generate after prompts, with the others over the network"
    )
    _add_task(ask, checkpoint=True)
    asking.add_options(ask)
    found = commands.add(
        "report",
        report.report,
        "what the training of an agreement gives away, by attacks on it, on records in "
        "one place",
    )
    report.add_options(found)
    return top


def _help_of(what: str) -> str:
    return f"{what} one party's part, with the others over the network"


def _add_agreements(commands: _Commands) -> None:
    """What is done before a run."""
    certs = commands.add(
        "certs",
        agreements.certs,
        "make a throw-away authority and a certificate for every party",
    )
    certs.add_argument("folder", type=Path, help="where the files go")
    certs.add_argument("parties", nargs="+", help="the name of each party")
    certs.add_argument("--days", type=float, default=30, help="how long they hold; 30")
    ids_key = commands.add(
        "ids-key",
        agreements.ids_key,
        "make a secret for all who hold records, by which digests of ids are keyed",
    )
    ids_key.add_argument("file", type=Path, help="the file that is written")
    agree = commands.add(
        "agree", agreements.agree, "write the agreement that a Python function gives"
    )
    agree.add_argument("agreement", type=Path, help="the file that is written")
    agree.add_argument(
        "function",
        help="file.py:function, which takes nothing and gives a jsplit.party.agreement",
    )
    show = commands.add("show", agreements.show, "say what an agreement holds")
    show.add_argument("agreement", type=Path, help="its file")


def _add_task(one: argparse.ArgumentParser, *, checkpoint: bool) -> None:
    """What every process of a party takes; inference must be given a `checkpoint`."""
    one.add_argument("agreement", type=Path, help="its file, the same at all parties")
    one.add_argument("party", help="which party this process is")
    one.add_argument(
        "function",
        help="file.py:function, which takes the party's name and gives the arguments "
        "of jsplit.party.run",
    )
    one.add_argument(
        "--checkpoint",
        type=Path,
        required=checkpoint,
        help="this party's own folder",
    )
    # One of the two must be said, so that nothing goes unencrypted by accident.
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
        "--deny",
        type=Path,
        help="file with serial numbers of certificates that are not believed, one a line",
    )
    one.add_argument(
        "--ids-key",
        type=Path,
        help="file with the secret of those who hold records, as of jsplit ids-key",
    )
    _add_reach(one)


def _add_reach(one: argparse.ArgumentParser) -> None:
    """How a party is reached, and what it takes from others."""
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
        help="seconds of silence after which a connection is asked, "
        "and without an answer after which it is lost",
    )
    one.add_argument(
        "--bound",
        action="append",
        default=[],
        metavar="VALUE=NORM",
        help="the largest norm that a record of a value from others may have",
    )
    one.add_argument(
        "--log",
        type=Path,
        help="file for lines of JSON: one for each step, or one for an inference",
    )


def _add_guard(one: argparse.ArgumentParser) -> None:
    """What becomes of signs that another trains this party's part to leak."""
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--guard",
        choices=POLICIES,
        help="what an alarm over what comes back does: is logged, which is what "
        "happens anyway, or ends the run",
    )
    how.add_argument(
        "--no-guard", action="store_true", help="do not look at what comes back"
    )


def _add_records(one: argparse.ArgumentParser) -> None:
    """What inference takes."""
    one.add_argument(
        "--records",
        type=int,
        required=True,
        help="how many records there are, the same at all",
    )
    # Training is of all clients; here one has records, and only it is asked for them.
    one.add_argument("--client", help="whose records, where clients take turns")
