"""Normalization layers by name, each built for its site in a network."""
