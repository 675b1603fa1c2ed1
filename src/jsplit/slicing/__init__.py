"""A whole model cut into segments: traced, divided at its cuts, and put together again."""
