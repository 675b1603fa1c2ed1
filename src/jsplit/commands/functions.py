"""The functions that a user names on the command line, as `file.py:function`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def load(spec: str) -> Callable[..., object]:
    """The function that `file.py:function` names.

    Args:
        spec: path of a Python file, a colon, and a name in it.

    Returns:
        The function; the file has been run for it.

    Raises:
        ValueError: naming what there is not.
    """
    # From the right, since a path of Windows has a colon of its own.
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
    # Records and classes of the file look for their module by name. Not over one that
    # is there: a file called random.py must not replace Python's.
    sys.modules.setdefault(Path(file).stem, module)
    # What lies beside the file can be imported by it, as if it were run itself.
    sys.path.insert(0, str(Path(file).resolve().parent))
    found.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"`function` names `{name}`, which {file} does not define.")
    return function


def whence(error: BaseException, spec: str) -> str:
    """Where an error came from, if the user's own function has raised it.

    Args:
        error: that ends the command.
        spec: the function, as `load` takes it.

    Returns:
        Words to put after the message; none if the error was raised by jsplit.
    """
    own = str(Path(spec.rpartition(":")[0]).resolve())
    # From where it was raised outwards. If a frame of jsplit comes first, it is jsplit
    # that complains of what the user's function gave, in a message that says so.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_relative_to(_PACKAGE):
            break
        if str(file) == own:
            return (
                f" (raised in {frame.filename}, line {frame.lineno}; "
                "--debug says how it came to that)"
            )
    return ""


def said(error: BaseException, where: str) -> str:
    """What an error says, unless it may quote a record.

    Args:
        error: that ends the command.
        where: as `whence` gives it.

    Returns:
        The text of an error of jsplit, of the system, or of a `raise` of the user's
        own; of one that Python or a library has raised below the user's function, as
        for a number that cannot be read, its kind alone.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own_words = bool(frames) and (frames[-1].line or "").startswith("raise ")
    of_system = isinstance(error, OSError) and not isinstance(error, ValueError)
    # The line of a library is a `raise` as well, but none of the user's.
    if not where or of_system or (own_words and frames[-1].filename in where):
        return str(error)
    return f"{type(error).__name__}, whose text may hold data, ends the function"
