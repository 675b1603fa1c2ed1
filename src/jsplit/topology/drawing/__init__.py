"""A topology as a picture: what there is, where it stands, how it is drawn."""

from jsplit.topology.drawing.flowchart import mermaid
from jsplit.topology.drawing.picture import figure

__all__ = ["figure", "mermaid"]
