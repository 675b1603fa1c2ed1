"""The command `jsplit`: certificates to try with, the agreement, one party's process.

Its parts are in `jsplit.commands`; here they are run, and their errors are said.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from jsplit import party as parties
from jsplit.commands.functions import whence
from jsplit.commands.parser import parser

_UNUSABLE = 2
"""Exit status after an error that the user can mend; that of `argparse` as well."""
_INTERRUPTED = 130
"""Exit status after Ctrl-C, by the custom of shells: 128 and the number of the signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that a user can mend is one line.

    Args:
        arguments: of the command line; by default those of the process.

    Returns:
        The exit status.

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
    # On standard error: what a command gives may be piped to another.
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr
    )
    # JAX says which devices it has not found, in lines that look like errors.
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        return options.run(options)
    except (ValueError, parties.Refused, parties.Missing, OSError) as error:
        if options.debug:
            traceback.print_exc()
        # Of the function that the user has named, if the command takes one.
        where = whence(error, getattr(options, "function", ""))
        print(f"jsplit {options.command}: {error}{where}", file=sys.stderr)
        return _UNUSABLE
    except KeyboardInterrupt:
        print(f"jsplit {options.command}: interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
