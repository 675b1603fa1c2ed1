"""A topology as a picture: what there is to draw, where it stands, and how it is drawn."""
