"""Self-supervised methods and their controls, one file each."""
