"""What `believe.yaml` may hold: the sentences of the page "What to believe"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import RootModel

from benchmark.config import yaml_file
from benchmark.config.schema import Model
from benchmark.core.errors import UserError, unknown

NAME = "believe.yaml"

Outcome = Literal["above", "below", "equivalent"]


class Sentence(Model):
    """What one outcome shows, and what follows for somebody who trains networks."""

    shown: str
    advice: str


class Sentences(Model):
    """The sentences of one claim, by what its difference shows."""

    above: Sentence
    below: Sentence
    equivalent: Sentence

    def of(self, outcome: str) -> Sentence:
        """The sentence of an outcome; that of its sign, if it is also within the margin."""
        found: Sentence = getattr(self, outcome.removesuffix("_equivalent"))
        return found


class _File(RootModel[dict[str, Sentences]]):
    """A whole `believe.yaml`."""


def read(root: Path, claims: Sequence[str]) -> dict[str, Sentences]:
    """The sentences of these claims.

    Raises UserError for a missing or malformed file, if a claim is missing or unknown, and for a
    sentence with a number of its own or a margin where none was shown.
    """
    path = root / NAME
    if not path.is_file():
        raise UserError(f"no {NAME} in {root}: run this at the top of the project")
    found = yaml_file.parse(_File, yaml_file.load(path), NAME).root
    for name in claims:
        if name not in found:
            raise UserError(f"{NAME} has no sentences for claim {name}")
    for name, sentences in found.items():
        if name not in claims:
            raise unknown(f"claim in {NAME}", name, claims)
        for outcome, sentence in sentences:
            _check(f"{NAME}: {name}.{outcome}", outcome, sentence)
    return found


def _check(where: str, outcome: str, sentence: Sentence) -> None:
    """Numbers are the records'. Only equivalence has a margin, and must state it."""
    for key, text in sentence:
        if any(letter.isdigit() for letter in text):
            raise UserError(f"{where}.{key} is {text!r}, expected no number: records have them")
        expected = int((outcome, key) == ("equivalent", "shown"))
        if text.count("{margin}") != expected or text.count("{") + text.count("}") != 2 * expected:
            allowed = "{margin} once" if expected else "no braces"
            raise UserError(f"{where}.{key} is {text!r}, expected {allowed}")
