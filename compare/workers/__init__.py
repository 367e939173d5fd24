"""Worker processes, and the protocol that they speak."""
