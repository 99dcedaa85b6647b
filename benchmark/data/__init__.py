"""Images: sources, splits and random views."""
