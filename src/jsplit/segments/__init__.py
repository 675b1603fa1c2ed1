"""From a Flax module or a function to a `Segment`. The only room that knows Flax."""
