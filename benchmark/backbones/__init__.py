"""Backbones from timm, with the norms of a scheme injected."""
