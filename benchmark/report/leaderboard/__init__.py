"""An experiment's tables and figure."""
