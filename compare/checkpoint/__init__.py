"""Checkpoints: written by Orbax, read by TensorStore."""
