"""What this machine has, and what would be refused on it."""
