"""`python -m jsplit` is the command `jsplit`."""

import sys

from jsplit.command import main

if __name__ == "__main__":
    sys.exit(main())
