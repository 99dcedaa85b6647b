"""Text of a row's seeds and environments, for the page and the CSV file."""

from __future__ import annotations

from benchmark.analysis.leaderboard import Entry
from benchmark.config.overrides import flags


def counts(entry: Entry) -> str:
    """The seeds by status, e.g. `1 done, 1 diverged`."""
    return ", ".join(f"{count} {status}" for status, count in entry.counts.items())


def overrides(entry: Entry) -> str:
    """What `--set` set when records of a row were published, e.g. `--set training.batch_size=128`."""
    stated = (run.published.overrides for run in entry.records)
    return "; ".join(dict.fromkeys(flags(values) for values in stated if values))


def environments(entry: Entry) -> str:
    """The names of a row's environments, e.g. `A B`."""
    return " ".join(environment_name(place) for place in entry.environments)


def environment_name(place: int) -> str:
    """A, B, … for the places of a table's environments."""
    return chr(ord("A") + place) if place < 26 else f"A{place}"
