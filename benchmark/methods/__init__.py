"""Self-supervised methods and the controls they are held against, one file each."""
