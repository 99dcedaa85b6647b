"""The controls from below: the backbone as it was initialised, and no backbone at all."""

from __future__ import annotations

from benchmark.methods.base import Batch, Method, Outcome

COMPONENT = [
    {
        "name": "untrained",
        "version": 1,
        "title": "untrained",
        "views": 0,
        "sections": ["backbone"],
        "teacher": False,
        "options": {},
    },
    {
        "name": "raw-pixels",
        "version": 1,
        "title": "raw pixels",
        "views": 0,
        "sections": [],
        "teacher": False,
        "options": {},
    },
]


class Untrained(Method):
    """Never trained: it has no loss."""

    def forward(self, batch: Batch) -> Outcome:
        """A control with zero views is not trained, so nothing may ask for its loss."""
        raise RuntimeError("an untrained control has no loss")


build = Untrained
