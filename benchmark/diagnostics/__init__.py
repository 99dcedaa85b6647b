"""What a cell's embeddings say beside their accuracy."""
