"""How clients that take one role in turn share what they learn.

Rounds train so, runs are costed so, and parties agree on it: the choices
are listed once.
"""

from __future__ import annotations

HANDOFFS = ("peer", "server", "none")
"""How what a client's side has learned gets to the next client in turn.

`"peer"` sends it straight, `"server"` up and down again; with `"none"` each
client keeps its own.
"""

# Steps of all clients at once hand nothing over: the choice is another one.
BOTTOMS = ("own", "shared")
"""Whose the clients' segments are where all step together.

`"own"`: each client has its own; `"shared"`: there is one for all.
"""
