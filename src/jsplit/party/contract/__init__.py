"""What parties agree on before they train together: all but anyone's model."""
