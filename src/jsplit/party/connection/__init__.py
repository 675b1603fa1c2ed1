"""How a party reaches the others: its connections, what waits on them, and how they
end.
"""
