"""`jsplit serve`: one party stays, and computes its part of what others ask."""

from __future__ import annotations

import argparse

from jsplit import party as parties
from jsplit.commands.brought import gather
from jsplit.commands.statuses import DONE
from jsplit.commands.stopping import asked_to_stop, say, stopped_at_once


def add_options(one: argparse.ArgumentParser) -> None:
    """What a party that serves takes, beside what every party's process does.

    Args:
        one: the parser of the command.
    """
    numbers = (
        ("sessions", 16, "how many sessions at a time"),
        ("length", 2048, "the most positions of a sequence"),
        ("batch", 64, "the most sequences of a session, or records of a call"),
        ("together", 16, "the most sessions that are computed in one run"),
    )
    for name, usual, text in numbers:
        one.add_argument(f"--{name}", type=int, default=usual, help=f"{text}; {usual}")
    one.add_argument(
        "--idle",
        type=float,
        default=600.0,
        help="seconds without a call after which a session is let go of; 600",
    )
    one.add_argument(
        "--batch-wait",
        type=float,
        default=0.0,
        help="seconds that a call waits for others to be computed with; 0",
    )
    one.add_argument(
        "--step", type=int, help="of `--checkpoint`; by default the newest"
    )
    one.add_argument(
        "--asker",
        action="append",
        metavar="PARTY",
        help="a party that may ask; by default those that hold fields",
    )


def serve(options: argparse.Namespace) -> int:
    """Serve one party's part until asked to stop.

    Args:
        options: of the command line.

    Returns:
        The exit status: `DONE`, also of one that was asked to stop.
    """
    for name, given in (("bound", options.bound), ("log", options.log)):
        if given:
            raise ValueError(
                f"`--{name}` is of training and inference, not of serving."
            )
    with asked_to_stop() as stop:
        with stopped_at_once():
            gathered = gather(options)
        # The same function serves training, so what only that needs is left aside.
        kept = {
            name: gathered.given[name]
            for name in ("own", "data", "ids", "links") & gathered.given.keys()
        }
        served = parties.serve(
            gathered.agreed,
            options.party,
            checkpoint=options.checkpoint,
            step=options.step,
            together=options.together,
            batch_wait=options.batch_wait,
            stop=stop,
            sessions=options.sessions,
            length=options.length,
            batch=options.batch,
            idle=options.idle,
            askers=options.asker,
            **gathered.reach,
            **kept,
        )
        say(
            f"{options.party}: served step {served.model.step} in {served.sessions} "
            f"sessions and {served.calls} calls"
        )
    return DONE
