"""`python -m jsplit` is the command `jsplit`."""

import sys

from jsplit.command import main

sys.exit(main())
