"""From published records to the tables and figures that people read."""
