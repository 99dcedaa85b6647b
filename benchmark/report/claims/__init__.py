"""The claims' page, figures and JSON."""
