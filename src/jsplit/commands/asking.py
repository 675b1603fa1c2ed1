"""`jsplit ask`: generate after prompts, by asking the parties that serve."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from jsplit import party as parties
from jsplit.commands import prompts
from jsplit.commands.brought import gather
from jsplit.commands.outputs import check_file, write_text
from jsplit.commands.statuses import DONE
from jsplit.commands.stopping import say, stopped_at_once
from jsplit.training.generating import generate


def add_options(one: argparse.ArgumentParser) -> None:
    """What who asks takes, beside what every party's process does.

    Args:
        one: the parser of the command.
    """
    one.add_argument(
        "--step", type=int, help="of `--checkpoint`; by default the newest"
    )
    prompt = one.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt",
        action="append",
        help="token ids of a prompt, as '3 4 5'; once for each. Whoever lists the "
        "processes of this machine sees them",
    )
    prompt.add_argument(
        "--prompts",
        type=Path,
        help="file of token ids: text, a prompt a line, or .npy, int [prompt, position]; "
        "- for lines of standard input",
    )
    one.add_argument(
        "--steps", type=int, required=True, help="how many tokens after each prompt"
    )
    one.add_argument(
        "--batch", type=int, default=8, help="prompts of one length at a time; 8"
    )
    one.add_argument("--seed", type=int, help="tokens are drawn; else the most likely")
    one.add_argument("--temperature", type=float, default=1.0, help="with --seed; 1")
    one.add_argument("--top-k", type=int, help="with --seed: of so many most likely")
    one.add_argument("--end", type=int, help="a token after which a sequence ends")
    one.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="of waiting for a party that serves; by default as agreed",
    )
    one.add_argument(
        "--out", type=Path, help="file for the tokens, a line for each prompt; printed"
    )


def ask(options: argparse.Namespace) -> int:
    """Generate after each prompt, in the order in which they are given.

    Args:
        options: of the command line.

    Returns:
        The exit status: `DONE`.
    """
    for name, given in (("bound", options.bound), ("log", options.log)):
        if given:
            raise ValueError(f"`--{name}` is of training and inference, not of asking.")
    given = _given(options)
    if options.batch < 1 or options.steps < 1:
        raise ValueError("`--batch` and `--steps` must be 1 or more.")
    if options.out is not None:
        check_file(options.out)
    with stopped_at_once():
        gathered = gather(options)
        topology = gathered.agreed.topology_of_strangers
        role = gathered.agreed.turns.role[options.party]
        read = {i for n in topology.segments if n.party == role for i in n.reads}
        fields = sorted(read & {*topology.fields})
        if len(fields) != 1:
            raise ValueError(
                f"`{options.party}` must hold one field of tokens that its segments "
                f"read, it has {fields or 'none'}."
            )
        kept = {n: gathered.given[n] for n in ("own", "links") & gathered.given.keys()}
        longest = max(map(len, given)) + options.steps
        with parties.session(
            gathered.agreed,
            options.party,
            credentials=gathered.credentials,
            checkpoint=options.checkpoint,
            step=options.step,
            example={fields[0]: np.asarray(given[:1], np.int32)},
            length=longest,
            patience=options.patience,
            addresses=gathered.addresses,
            pulse=gathered.pulse,
            **kept,
        ) as first:
            found, step = _generated(first, given, options)
    lines = "".join(" ".join(map(str, tokens)) + "\n" for tokens in found)
    if options.out is None:
        print(lines, end="", flush=True)
    else:
        write_text(options.out, lines)
    say(f"{options.party}: {len(found)} prompts, with what was learned by step {step}")
    return DONE


def _given(options: argparse.Namespace) -> list[list[int]]:
    """The prompts: of the command line, of standard input, or of a file."""
    if options.prompt is not None:
        return prompts.of_lines("`--prompt`", options.prompt)
    if str(options.prompts) == "-":
        return prompts.of_lines("standard input", sys.stdin.read().splitlines())
    return prompts.read(options.prompts)


def _generated(
    first: parties.RemoteSession, given: list[list[int]], options: argparse.Namespace
) -> tuple[list[list[int]], int]:
    """The tokens after each prompt, and of which step the model is that gave them."""
    keys = None if options.seed is None else prompts.keys_of(given, options.seed)
    found: list[list[int]] = [[] for _ in given]
    step = 0
    for places in prompts.side_by_side(given, options.batch):
        # All of one length: the caches of all are then of one program at who serves.
        with first.another(batch=len(places)) as session:
            tokens = generate(
                session,
                np.asarray([given[i] for i in places], np.int32),
                options.steps,
                key=None if keys is None else keys[np.asarray(places)],
                temperature=options.temperature,
                top_k=options.top_k,
                end=options.end,
            )
            step = session.model.step
        for place, row in zip(places, tokens.tolist(), strict=True):
            # How long the others are is nothing of this one.
            ended = options.end in row
            found[place] = row[: row.index(options.end) + 1] if ended else row
    return found, step
