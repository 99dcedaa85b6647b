"""Exact numbers of tiny cells: a change of numbers without a change of version is found."""
