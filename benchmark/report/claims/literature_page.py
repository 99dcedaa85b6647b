"""The page of published results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmark.analysis.claims.literature import (
    METRICS,
    Entry,
    Library,
    Ordering,
    compare,
    compare_rows,
)
from benchmark.config.overrides import flags
from benchmark.report.markdown import NONE, escape, render
from benchmark.results.rows import RecordIndex


def markdown(library: Library, indexes: Mapping[str, RecordIndex]) -> str:
    """The page: the orderings by track, then all results claim by claim.

    `indexes` are those of the tracks to compare with; each has a column.
    """
    stated = {track: flags(index.params.overrides) for track, index in indexes.items()}
    return render(
        "literature.md.j2",
        library=library,
        tracks=list(indexes),
        orderings=[
            [_source(entry), *_asked(ordering), *(_word(ordering, i) for i in indexes.values())]
            for entry, ordering in library.orderings
        ],
        source=_source,
        here=partial(_here, indexes=indexes),
        overrides={track: given for track, given in stated.items() if given},
    )


def _source(entry: Entry) -> str:
    year = f" ({entry.year})" if entry.year else ""
    place = f", {escape(entry.place)}" if entry.place else ""
    return f"{escape(entry.source)}{year}, {_address(entry.at)}{place}"


def _address(at: str) -> str:
    if at[:4].isdigit() and at[4:5] == ".":
        return f"[{at}](https://arxiv.org/abs/{at})"
    if at.startswith("https://"):
        return f"[{escape(at.removeprefix('https://'))}]({at})"
    return escape(at)


def _asked(ordering: Ordering) -> list[str]:
    rows = f"`{ordering.higher}` above `{ordering.lower}`"
    return [rows, f"{METRICS[ordering.metric]}, experiment {escape(ordering.experiment)}"]


def _word(ordering: Ordering, index: RecordIndex) -> str:
    """What a track's records show of an ordering; a dash if the track does not have the rows."""
    found = compare_rows(ordering, index)
    if found is None:
        return NONE
    if found.difference is None:
        return f"**{found.word}**"
    half = "" if found.half is None else f" ± {100 * found.half:.1f}"
    return f"**{found.word}** ({100 * found.difference:+.1f}{half} points)"


def _here(entry: Entry, indexes: Mapping[str, RecordIndex]) -> str:
    """One word for each track that has rows of an entry, or why none has."""
    if entry.not_comparable is not None:
        return f"not comparable: {escape(entry.not_comparable)}"
    words = {track: compare(entry, index) for track, index in indexes.items()}
    shown = [
        f"{escape(track)} **{word}**" for track, word in words.items() if word != "not comparable"
    ]
    return ", ".join(shown) or "on none of these tracks"
