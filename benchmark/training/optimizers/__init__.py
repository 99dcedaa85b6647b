"""Optimizers by name, one file each."""
