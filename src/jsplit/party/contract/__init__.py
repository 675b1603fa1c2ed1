"""The contract between parties, and its file: how it is made, written, read and checked."""
