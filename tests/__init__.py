"""Laws of jsplit, in the rooms of the source; `helpers`, `oracles` and each `conftest`
serve them.
"""
