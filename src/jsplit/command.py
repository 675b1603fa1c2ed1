"""The command `jsplit`: certificates to try with, the agreement, one party's process.

Its parts are in `jsplit.commands`; here they are run, and their errors are said.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext

from jsplit.commands.functions import said, whence
from jsplit.commands.parser import parser
from jsplit.commands.statuses import INTERRUPTED, MENDABLE, NEVER, STOPPED, status_of
from jsplit.commands.stderr_bound import bounded
from jsplit.commands.stopping import Asked, hush, leave_no_signal

_EXTRAS = {
    "grpc": "grpc",
    "cryptography": "grpc",
    "matplotlib": "draw",
    "sklearn": "privacy",
    "dm_pix": "privacy",
}
"""By package, the extra that brings it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that a user can mend is one line.

    Args:
        arguments: of the command line; by default those of the process.

    Returns:
        The exit status; `jsplit.commands.statuses` says which there are.

    Raises:
        SystemExit: if the arguments cannot be parsed, or ask for help or the version.

    Example:
        >>> from jsplit.command import main
        >>> try:  # doctest: +ELLIPSIS
        ...     main(["--version"])
        ... except SystemExit as end:
        ...     print(end.code)
        jsplit ...
        0
    """
    options = parser().parse_args(arguments)
    try:
        # Only what has a `party` speaks with others, who could make libraries write. Who
        # gives arguments is a program with a standard error, and threads, of its own.
        alone = arguments is None and "party" in options
        # It ends before the line that says how the command ended.
        with bounded() if alone else nullcontext():
            # On standard error: what a command gives may be piped to another.
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr
            )
            # JAX says which devices it has not found, in lines that look like errors.
            logging.getLogger("jax").setLevel(logging.WARNING)
            try:
                return options.run(options)
            finally:
                if alone:
                    leave_no_signal()
    except ModuleNotFoundError as error:
        # Of an extra that a wheel was installed without. A module that the user's own
        # file lacks is the user's to find, with the traceback.
        if error.name not in _EXTRAS or options.debug:
            raise
        print(
            f"jsplit {options.command}: needs the package {error.name}, of the extra "
            f"`{_EXTRAS[error.name]}`: install jsplit with `[{_EXTRAS[error.name]}]`.",
            file=sys.stderr,
        )
        return NEVER
    except MENDABLE as error:
        if options.debug:
            traceback.print_exc()
        # Of the function that the user has named, if the command takes one, or several.
        others = [p.partition("=")[2] for p in getattr(options, "part", ())]
        specs = [getattr(options, "function", ""), *others]
        where = next(filter(None, (whence(error, spec) for spec in specs)), "")
        text = said(error, where)
        print(f"jsplit {options.command}: {text}{where}", file=sys.stderr)
        return status_of(error)
    except Asked:
        print(f"jsplit {options.command}: stopped before it began", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print(f"jsplit {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        hush()


if __name__ == "__main__":
    sys.exit(main())
