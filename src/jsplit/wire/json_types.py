"""The type of what JSON can hold, for whatever was read from a frame or a file.

Another party has chosen what is in it, so it is narrowed, by
`isinstance`, where it is read. What is written is typed where it is made,
and takes `object`: `json` refuses what it cannot say.
"""

from __future__ import annotations

from typing import TypeAlias

# In quotes, since it is made of itself.
Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
"""What `json.loads` gives. It makes no tuples: what was sent as one comes as a list."""
