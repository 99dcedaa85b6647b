"""What to do in the minutes in which a GPU is at hand."""
