"""Programs that use the benchmark."""
