"""Trained networks: from files, from other projects, in memory."""
