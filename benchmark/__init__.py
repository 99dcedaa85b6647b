"""A reproducible benchmark of normalization schemes in self-supervised learning."""
