"""One party's part of every step."""
