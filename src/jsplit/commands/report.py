"""`jsplit report`: what the training of an agreement gives away, on records in one place.

It needs every party's part and all fields, so it is for one owner who has all of them, or for
public records of the same kind.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np

from jsplit import party as parties
from jsplit.commands.archives import fields_of
from jsplit.commands.brought import Given, given_by
from jsplit.commands.outputs import check_folder
from jsplit.commands.statuses import DONE
from jsplit.commands.stopping import say
from jsplit.commands.whole_training import Whole, whole
from jsplit.core.base import PyTree
from jsplit.core.files import private_file, private_folder
from jsplit.core.trees import as_arrays, batch_of
from jsplit.party.contract.field_types import check_dtypes
from jsplit.privacy.reporting.attempt import Attempt
from jsplit.privacy.reporting.registered import attempts
from jsplit.privacy.reporting.reporting import HELD_OUT
from jsplit.privacy.reporting.reporting import report as reported
from jsplit.privacy.reporting.whole import Report

_log = logging.getLogger("jsplit")
AS_AGREED, WITHOUT = "as agreed", "without links"
FORMS = ("txt", "md", "html", "json")


def add_options(one: argparse.ArgumentParser) -> None:
    """What `jsplit report` takes.

    Args:
        one: its parser.
    """
    one.add_argument("agreement", type=Path, help="its file")
    one.add_argument(
        "function",
        help="file.py:function, which takes a party's name and gives the arguments of "
        "jsplit.party.run; asked for every party",
    )
    one.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="PARTY=FILE.PY:FUNCTION",
        help="another function for one party",
    )
    files = {
        "data": "file.npz with every field; else the `data` that the functions give",
        "test": "the same of records for losses and metrics; else a quarter of the data",
        "public": "the same of records that are nobody's secret",
    }
    for name, what in files.items():
        one.add_argument(f"--{name}", type=Path, help=what)
    one.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="FIELD=LOW:HIGH",
        help="the smallest and the largest value of a field, as an adversary knows it",
    )
    one.add_argument(
        "--links",
        choices=("both", "with", "without"),
        default="both",
        help="train with the links of the agreement, without, or both side by side",
    )
    one.add_argument("--client", help="whose part, where clients take turns")
    names = [a.name for a in attempts()]
    one.add_argument(
        "--attack", action="append", choices=names, help="an attack to try; else all"
    )
    numbers = {
        "known": (
            None,
            "of how many records of each class an adversary knows the label",
        ),
        "epochs": (None, "passes over the data; else as many as make the agreed steps"),
        "steps": (None, "of each attack; else its own"),
        "watched": (16, "how many of the first and of the last steps are attacked; 16"),
        "attacked": (1024, "of how many records an inference is attacked; 1024"),
        "pictures": (0, "reconstructions to show, of each attack; else no value shows"),
        "key": (None, "what is drawn from; else the agreement's seed"),
    }
    for name, (default, what) in numbers.items():
        one.add_argument(f"--{name}", type=int, default=default, help=what)
    one.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        help="folder for report.txt, .md, .html and .json; report",
    )


def report(options: argparse.Namespace) -> int:
    """Report what the training of an agreement gives away, and write it.

    Args:
        options: of the command line.

    Returns:
        The exit status: `DONE`.

    Raises:
        ValueError: naming the option, file or function to mend.
    """
    agreed = parties.read(options.agreement)
    functions = _functions(options, agreed)
    made = whole(agreed, lambda p: _part(functions, p), options.client)
    # What cannot be written is known before hours of training.
    check_folder(options.out)
    files = {
        n: fields_of(getattr(options, n), n, made) for n in ("data", "test", "public")
    }
    given, test, public = files.values()
    data = _counted(made.fields() if given is None else given, made)
    for name, fields in {"data": data, "test": test, "public": public}.items():
        # Else another model than the agreed one would be trained.
        check_dtypes(agreed.fields, fields or {}, f"--{name}")
    test = None if test is None else _counted(test, made)
    found = _reported(options, made, data, test, public)
    # First, so that a disk that is full by now does not take it.
    say(str(found))
    for file in _written(found, options.out):
        _log.info("%s", file)
    return DONE


def _reported(
    options: argparse.Namespace,
    made: Whole,
    data: Mapping[str, PyTree],
    test: Mapping[str, PyTree] | None,
    public: Mapping[str, PyTree] | None,
) -> Report:
    agreed = made.agreed
    trainers = {}
    if made.links and options.links != "with":
        trainers[WITHOUT] = made.trainer({})
    if not made.links or options.links != "without":
        trainers[AS_AGREED] = made.trainer(made.links)
    first, *others = trainers
    count = batch_of(as_arrays(data))
    count -= 0 if test is not None else count // HELD_OUT
    if count < agreed.batch:
        raise ValueError(
            f"`--data` must have the {agreed.batch} records of a batch at least, beside "
            f"those for losses; {count} are left."
        )
    found = reported(
        trainers[first],
        data,
        test=test,
        public=public,
        known=options.known,
        ranges=_ranges(options.range, made),
        attacks=_attacks(options.attack),
        defences={n: trainers[n] for n in others},
        epochs=_epochs(agreed, count) if options.epochs is None else options.epochs,
        batch=agreed.batch,
        watched=options.watched,
        attacked=options.attacked,
        steps=options.steps,
        pictures=options.pictures,
        key=agreed.seed if options.key is None else options.key,
    )
    # "none", as of no defence, would be wrong where the agreement itself has some.
    named = zip(found.outcomes, trainers, strict=True)
    return Report(tuple(replace(o, name=n) for o, n in named))


def _epochs(agreed: parties.Agreement, count: int) -> int:
    """Passes over so many records that make the agreed steps, or more."""
    return -(-agreed.steps // (count // agreed.batch))


def _functions(
    options: argparse.Namespace, agreed: parties.Agreement
) -> dict[str, str]:
    """By party, the function that gives its part."""
    found: dict[str, str] = {p: options.function for p in agreed.parties}
    for text in options.part:
        name, _, spec = text.partition("=")
        if not spec or name not in found:
            raise ValueError(
                "`--part` must be party=file.py:function, for one of "
                f"{', '.join(found)}, got {text}."
            )
        found[name] = spec
    return found


def _part(functions: Mapping[str, str], party: str) -> Given:
    return given_by(functions[party], party)


def _counted(data: Mapping[str, PyTree], made: Whole) -> dict[str, PyTree]:
    """The records that count, if the agreement has weights."""
    name = made.agreed.weight
    fields = {f: data[f] for f in made.topology.fields if f in data}
    if not name or name not in data:
        return fields
    weight = np.asarray(data[name])
    if len(np.unique(weight[weight != 0])) > 1:
        raise ValueError(
            f"`{name}` must be 0 or one other number: a report counts records alike."
        )
    arrays = as_arrays(fields)
    return {f: _rows(x, weight != 0) for f, x in arrays.items()}


def _rows(x: PyTree, which: np.ndarray) -> PyTree:
    import jax

    return jax.tree.map(lambda a: np.asarray(a)[which], x)


def _ranges(said: list[str], made: Whole) -> dict[str, tuple[float, float]]:
    found = {}
    for text in said:
        name, _, ends = text.rpartition("=")
        try:
            low, high = map(float, ends.split(":"))
        except ValueError:
            low = high = 0.0
        ends_are_finite = isfinite(low) and isfinite(high)
        if name not in made.topology.fields or not ends_are_finite or not low < high:
            raise ValueError(
                "`--range` must be field=low:high, for one of "
                f"{', '.join(made.topology.fields)}, got {text}."
            )
        found[name] = (low, high)
    return found


def _attacks(names: list[str] | None) -> list[Attempt] | None:
    return None if names is None else [a for a in attempts() if a.name in names]


def _written(found: Report, folder: Path) -> list[Path]:
    """Write a report in all its forms, for its owner alone: pictures are of records."""
    private_folder(folder)
    texts = (found.table(), found.markdown(), found.html(), found.json())
    files = [folder / f"report.{form}" for form in FORMS]
    for file, text in zip(files, texts, strict=True):
        with private_file(file) as f:
            f.write(text.encode())
    return files
