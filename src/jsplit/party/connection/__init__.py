"""How a party reaches the others."""
