"""Writes files for a user to start from: a track of their own images, a plug-in."""
