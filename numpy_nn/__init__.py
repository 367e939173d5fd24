"""Neural networks by hand: NumPy, forward and backward written out."""
