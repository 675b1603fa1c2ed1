"""A topology as a picture: what there is to draw, where it stands, and how it is drawn."""

from jsplit.topology.drawing.flowchart import mermaid
from jsplit.topology.drawing.picture import figure

__all__ = ["figure", "mermaid"]
