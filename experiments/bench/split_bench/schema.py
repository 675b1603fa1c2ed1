"""One schema for the rows of SplitBench: what each field is, and a check of both ends of a file.

A file has four parts. `runs`: one trained model, of one data set, contestant and seed. `costs`:
what it costs and what is guaranteed, and `leaks`: what attacks find, once for each data set and
contestant. `machine`: on
what it was measured. `null` says that a number does not exist or was not measured, never 0; why
stands in `notes`. `python experiments/bench/splitbench.py --schema` prints it as JSON Schema.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jsplit

VERSION = "splitbench/2"
# How the notes of a row begin that is to be measured again, and of one that is not.
FAILED, DIVERGED = "failed", "diverged"
# What tells two rows of a part apart: a row that is there is not measured again.
KEYS = {
    "runs": ("data", "contestant", "system", "seed"),
    "costs": ("data", "contestant", "system"),
    "leaks": ("data", "contestant", "system"),
}


class Field(NamedTuple):
    """One field of a row.

    Attributes:
        kind: as JSON Schema calls it: string, integer, number, object.
        says: what it is, with its unit.
        null: whether it may be missing.
        least: the smallest value, of a number.
        most: the largest.
    """

    kind: str
    says: str
    null: bool = False
    least: float | None = None
    most: float | None = None


SETTING = {
    "data": Field("string", "name of the data set"),
    "contestant": Field("string", "configuration, algorithm or baseline"),
    "kind": Field("string", "configuration, clients or baseline"),
    "system": Field("string", "jsplit, flax (without jsplit) or pytorch"),
    "train": Field("integer", "records trained on", least=1),
    "test": Field("integer", "records tested on", least=1),
    "classes": Field("integer", "of the labels", least=2),
    "clients": Field("integer", "parties that hold records", least=1),
    "population": Field("string", "who has which records"),
    "network": Field("string", "what is trained"),
    "optimizer": Field("string", "with its settings"),
    "epochs": Field("integer", "passes over the records, or rounds of one", least=1),
    "batch": Field("integer", "records in a step, of each client", least=1),
}
RUN = {
    **SETTING,
    "seed": Field("integer", "of weights, batches and division", least=0),
    "rate": Field("number", "of learning; null: not chosen", null=True, least=0),
    "accuracy": Field(
        "number", "of test records; null: see notes", null=True, least=0, most=1
    ),
    "auc": Field("number", "ROC, of two classes alone", null=True, least=0, most=1),
    "from_whole": Field(
        "number",
        "largest difference of a weight to the whole model's after the last step, "
        "relative to the largest entry of its array",
        null=True,
        least=0,
    ),
    "seconds_trained": Field(
        "number", "wall time, compiling included", null=True, least=0
    ),
    "notes": Field("string", "why there is no accuracy; empty where there is one"),
}
COST = {
    **SETTING,
    "client_flops": Field(
        "number", "of a client in all, on average over clients", null=True, least=0
    ),
    "client_bytes": Field(
        "number", "to and from a client in all, frames included", null=True, least=0
    ),
    "client_memory": Field(
        "number",
        "bytes a client holds: weights, optimizer and what it keeps for the way back; "
        "gradients and scratch space aside",
        null=True,
        least=0,
    ),
    "seconds": Field("number", "of a pass, median of blocks", null=True, least=0),
    "seconds_low": Field("number", "of the quickest block", null=True, least=0),
    "seconds_high": Field("number", "of the slowest block", null=True, least=0),
    "blocks": Field("integer", "of interleaved timing", least=0),
    "guarantee": Field("object", "of differential privacy", null=True),
    "notes": Field("string", "what is absent or counted in another way, and why"),
}
LEAK = {
    **SETTING,
    "labels": Field("object", "the best attack on labels, seed 0", null=True),
    "inputs": Field("object", "the best attack on records, seed 0", null=True),
    "notes": Field("string", "what was tried, and why something is absent"),
}
ATTACK = {
    "attack": Field("string", "its name"),
    "party": Field("string", "who attacks"),
    "cut": Field("string", "what it read"),
    "target": Field("string", "what it wants"),
    "measure": Field("string", "AUC, accuracy or an error"),
    "value": Field("number", "what it reached: a lower bound of what leaks"),
    "low": Field("number", "of its 95 % interval"),
    "high": Field("number", "of its 95 % interval"),
    "chance": Field("number", "what a guess reaches"),
    "control": Field("number", "what it reaches where there is nothing to find"),
    "advantage": Field("number", "0: no better than a guess; 1: all", most=1),
    "doubt": Field("string", "why more may be reached; empty if nothing says so"),
}
GUARANTEE = {
    "statements": Field("integer", "of whose records against whom", least=0),
    "hold": Field("integer", "of these with a finite epsilon", least=0),
    "weakest": Field("number", "the largest epsilon of those", null=True, least=0),
    "said": Field("string", "those that hold, and in a word the others"),
}
PARTS = {"runs": RUN, "costs": COST, "leaks": LEAK}
INNER = {"labels": ATTACK, "inputs": ATTACK, "guarantee": GUARANTEE}
TYPES = {"string": str, "integer": int, "number": (int, float), "object": dict}


class Invalid(ValueError):
    """A file or a row that is not of the schema."""


def check_row(row: Mapping, fields: Mapping[str, Field], where: str) -> None:
    """Check one row, and what is in it.

    Raises:
        Invalid: naming the field, what was expected and what came.
    """
    if row.keys() != fields.keys():
        off = sorted(row.keys() ^ fields.keys())
        raise Invalid(f"{where}: fields that lack or are unknown: {', '.join(off)}.")
    for name, field in fields.items():
        value, at = row[name], f"{where}, `{name}`"
        if value is None:
            if not field.null:
                raise Invalid(f"{at}: expected {field.kind}, got null.")
            continue
        # To Python a boolean is an integer, and NaN a number; here neither is.
        if isinstance(value, bool) or not isinstance(value, TYPES[field.kind]):
            raise Invalid(f"{at}: expected {field.kind}, got {type(value).__name__}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid(f"{at}: expected a finite number, got {value}.")
        low = field.least is not None and value < field.least
        if low or (field.most is not None and value > field.most):
            raise Invalid(f"{at}: expected {field.least} to {field.most}, got {value}.")
        if isinstance(value, dict):
            check_row(value, INNER[name], at)


def check(document: Mapping) -> None:
    """Check a whole document: its version, each row, that none is there twice, all are alike.

    Raises:
        Invalid: naming what is wrong.
    """
    expected = {"schema", "machine", *PARTS}
    if document.keys() != expected:
        off = ", ".join(sorted(document.keys() ^ expected))
        raise Invalid(f"parts that lack or are unknown: {off}.")
    if document["schema"] != VERSION:
        raise Invalid(f"`schema`: expected {VERSION!r}, got {document['schema']!r}.")
    for part, fields in PARTS.items():
        seen = set()
        for i, row in enumerate(document[part]):
            check_row(row, fields, f"{part}[{i}]")
            key = key_of(part, row)
            if key in seen:
                raise Invalid(f"{part}[{i}]: {key} is there twice.")
            seen.add(key)
    # Of all parts: runs, costs and leaks of a contestant stand in one line of a table.
    check_alike([row for part in PARTS for row in document[part]])


def key_of(part: str, row: Mapping) -> tuple:
    return tuple(row[name] for name in KEYS[part])


def why(error: Exception) -> str:
    """Why a row has no numbers, as its notes say it: training diverged, or it failed.

    What diverged does so again, and is a result; what failed is measured again by the next run.
    """
    kind = DIVERGED if isinstance(error, jsplit.NotFinite) else FAILED
    first = str(error).strip().partition("\n")[0]
    return f"{kind}: {type(error).__name__}: {first}"


def failed(row: Mapping) -> bool:
    """Whether a row says that it is to be measured again."""
    return row["notes"].startswith(FAILED)


def untimed(cost: Mapping) -> bool:
    """Whether a cost was counted without a clock, and not because its passes diverge."""
    return not cost["blocks"] and not cost["notes"].startswith(DIVERGED)


def joined(document: Mapping, other: Mapping) -> dict:
    """A document with those rows of another that it lacks, as measured elsewhere or apart.

    Seconds of another machine are left out: beside those of this one they would say nothing.
    """
    found = dict(document)
    if document["machine"] != other["machine"]:
        other = {**other, "costs": [without_seconds(row) for row in other["costs"]]}
    for part in PARTS:
        mine = [row for row in document[part] if not failed(row)]
        there = {key_of(part, row) for row in mine}
        new = [row for row in other[part] if key_of(part, row) not in there]
        found[part] = [*mine, *new]
    check(found)
    return found


def without_seconds(cost: Mapping) -> dict:
    """A cost that was counted, as if no clock had been looked at."""
    none = dict.fromkeys(("seconds", "seconds_low", "seconds_high"))
    notes = [cost["notes"], "seconds of another machine left out"]
    if not cost["blocks"]:
        return dict(cost)
    return {**cost, **none, "blocks": 0, "notes": "; ".join(filter(None, notes))}


def check_machine(document: Mapping, machine: Mapping) -> None:
    """Refuse to time on another machine what stands beside seconds of a first one.

    Raises:
        Invalid: naming what differs.
    """
    timed = any(row["blocks"] for row in document["costs"])
    old = document["machine"]
    if timed and (
        off := sorted(k for k in {*old} | {*machine} if old.get(k) != machine.get(k))
    ):
        raise Invalid(
            f"`machine`: the file has seconds of another one ({', '.join(off)}); use another "
            "folder, and --join, or --blocks 0."
        )


def check_alike(rows: Sequence[Mapping]) -> None:
    """Rows of one table were trained on as many records and for as long.

    Raises:
        Invalid: naming what differs; such rows would stand beside each other in a table.
    """
    first: dict[tuple, Mapping] = {}
    for row in rows:
        old = first.setdefault((row["data"], row["population"]), row)
        for name in ("train", "test", "epochs", "batch", "network"):
            if row[name] != old[name]:
                raise Invalid(
                    f"{row['contestant']} of {row['data']}: `{name}` is {row[name]}, but "
                    f"{old[name]} of {old['contestant']}; use another folder."
                )


def empty(machine: Mapping) -> dict:
    parts: dict[str, list] = {part: [] for part in PARTS}
    return {"schema": VERSION, "machine": dict(machine), **parts}


def read(file: Path, machine: Mapping) -> dict:
    """The rows of a file, checked; an empty document where there is no file."""
    if not file.exists():
        return empty(machine)
    document = json.loads(file.read_text())
    check(document)
    return document


def write(file: Path, document: Mapping) -> None:
    """Check, and write so that a kill leaves the old file or the new one."""
    check(document)
    file.parent.mkdir(parents=True, exist_ok=True)
    other = file.with_suffix(".part")
    other.write_text(json.dumps(document, indent=1, allow_nan=False))
    os.replace(other, file)


def json_schema() -> dict:
    """The same as JSON Schema, for whoever reads the rows in another language."""

    def of(fields: Mapping[str, Field]) -> dict:
        properties = {}
        for name, field in fields.items():
            one: dict = (
                of(INNER[name]) if field.kind == "object" else {"type": field.kind}
            )
            bounds = {"minimum": field.least, "maximum": field.most}
            one |= {word: x for word, x in bounds.items() if x is not None}
            if field.null:
                one["type"] = [one["type"], "null"]
            properties[name] = {**one, "description": field.says}
        return {
            "type": "object",
            "properties": properties,
            "required": list(fields),
            "additionalProperties": False,
        }

    parts = {name: {"type": "array", "items": of(f)} for name, f in PARTS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "schema": {"const": VERSION},
            "machine": {"type": "object"},
            **parts,
        },
        "required": ["schema", "machine", *PARTS],
        "additionalProperties": False,
    }
