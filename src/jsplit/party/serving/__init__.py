"""Serving a trained topology: parties that stay, and whoever asks them, over the network."""
