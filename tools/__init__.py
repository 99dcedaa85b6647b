"""Programs beside the benchmark."""
