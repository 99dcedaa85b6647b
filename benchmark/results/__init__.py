"""Every reader and writer of records and of their provenance. Imports planning and core."""
