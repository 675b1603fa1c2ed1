"""What one party computes of a step that all share.

`local` is one party; `programs` are its own of the walk; `interleave`,
`prefetch` and `pipeline` say which of them run before which; `exchange`
is how they meet the connections.
"""

from jsplit.party.compute.local import Local

__all__ = ["Local"]
