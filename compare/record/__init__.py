"""Records: the cold time in which each track reaches a test accuracy, over many seeds."""
