"""The embedded images and the program that made them."""
