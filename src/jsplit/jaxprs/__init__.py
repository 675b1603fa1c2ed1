"""Programs as data: a jaxpr as a flat list of equations, in halves, counted, and with its convolutions rewritten."""
