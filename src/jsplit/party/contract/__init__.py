"""What parties agree on before they train together."""
