"""The parity check: are the tracks the same function?"""
