"""Errors, canonical JSON, keyed randomness and determinism. Imports no other folder."""
