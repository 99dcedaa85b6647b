"""Normalization layers by name, built for the site where they stand."""
