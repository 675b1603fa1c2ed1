"""Who computes what and who holds what, as data; the six configurations; and pictures of all that."""
