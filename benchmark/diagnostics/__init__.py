"""Diagnostics of a cell: collapse, leakage and stability."""
