"""The names of what records measure."""

from __future__ import annotations

RANKING = "knn_reestimated"
"""The metric that ranks rows: the one that tunes learning rates and decides claims."""
