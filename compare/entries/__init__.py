"""The entries that people send in, and the pages that are made of them."""
