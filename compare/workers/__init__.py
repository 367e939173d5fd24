"""Worker processes, and the protocol between them and their parent."""
