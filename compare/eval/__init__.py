"""Evaluation: the figures of a trained network on a dataset."""
