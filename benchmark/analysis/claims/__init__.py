"""`claims.yaml` and `literature.yaml` held against the records."""
