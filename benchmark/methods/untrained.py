"""The lower controls: the backbone as it starts, drawn or with the weights of a file, and raw pixels."""

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
        "weights": "refused",
    },
    {
        "name": "pretrained",
        "version": 1,
        "title": "pretrained",
        "views": 0,
        "sections": ["backbone"],
        "teacher": False,
        "options": {},
        "weights": "required",
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
    """A control without training."""

    def forward(self, batch: Batch) -> Outcome:
        """Raises RuntimeError, since a method with zero views is never trained."""
        raise RuntimeError("an untrained control has no loss")


build = Untrained
