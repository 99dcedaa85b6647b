"""`claims.yaml` and `literature.yaml` compared with the records."""
