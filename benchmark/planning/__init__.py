"""From params to cells and their learning rates. Imports config, components, data and core."""
