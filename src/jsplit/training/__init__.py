"""One walk over a topology, forward and back, and the interpreters that run it."""
