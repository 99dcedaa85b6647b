"""The published results as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmark.analysis.claims.literature import (
    METRICS,
    Entry,
    Library,
    Ordering,
    judge,
)
from benchmark.report.leaderboard.tables import escape
from benchmark.results.rows import Shelf

HEAD = ("| source | setting | result | seen | here |", "|:--|:--|:--|:--|:--|")


def markdown(library: Library, shelves: Mapping[str, Shelf]) -> str:
    """The library for people, claim by claim; `shelves` are those of the tracks to compare with."""
    parts = ["# Published results, and what the records here say", _bullets(_reading())]
    for claim, title in library.titles.items():
        parts.append(f"## {claim}: {escape(title)}")
        lines = [
            f"| {' | '.join(_cells(entry, shelves))} |"
            for entry in library.entries.values()
            if claim in entry.claims
        ]
        parts.append("\n".join([*HEAD, *lines]) if lines else "Nothing that we know of.")
    return "\n\n".join(parts) + "\n"


def _reading() -> Iterator[str]:
    yield (
        "**result**: top-1 accuracy of a linear probe on ImageNet in %, unless the setting says "
        "otherwise, in our words."
    )
    yield (
        "**seen**: *read* in the paper, its code or its README; **quoted**: seen only as others quote "
        "it, so the figures may be wrong."
    )
    yield (
        "**here**: whether the records of a track put two rows into the order that the source states. "
        "The difference is the mean over the seeds of both rows, with an interval of 95 % whose spread "
        "is pooled over the two. *agrees* and *disagrees*: the interval leaves out zero; *undecided*: "
        "it does not, or a seed failed. This describes; it is not adjusted for the number of "
        "comparisons, and no verdict rests on it. Data and networks are smaller than the sources'."
    )
    yield (
        "*not comparable*: no rows here ask the same of the same method. *not yet run*: a row lacks "
        "records."
    )


def _cells(entry: Entry, shelves: Mapping[str, Shelf]) -> Iterator[str]:
    at = entry.at
    if at[:4].isdigit() and at[4:5] == ".":
        at = f"[{at}](https://arxiv.org/abs/{at})"
    elif at.startswith("https://"):
        at = f"[{escape(at.removeprefix('https://'))}]({at})"
    else:
        at = escape(at)
    year = f" ({entry.year})" if entry.year else ""
    place = f", {escape(entry.place)}" if entry.place else ""
    yield f"{escape(entry.source)}{year}, {at}{place}"
    yield escape(entry.setting)
    yield escape(entry.result)
    yield "read" if entry.status == "A" else "**quoted**"
    if entry.not_comparable is not None:
        yield f"not comparable: {escape(entry.not_comparable)}"
        return
    yield "<br>".join(_said(ordering, shelves) for ordering in entry.compare)


def _said(ordering: Ordering, shelves: Mapping[str, Shelf]) -> str:
    words = []
    for track, shelf in shelves.items():
        judged = judge(ordering, shelf)
        if judged is None:
            continue
        shown = f"{escape(track)} **{judged.word}**"
        if judged.difference is not None:
            shown += f" ({100 * judged.difference:+.1f}"
            shown += " points)" if judged.half is None else f" ± {100 * judged.half:.1f} points)"
        words.append(shown)
    what = f"`{ordering.higher}` above `{ordering.lower}` in {METRICS[ordering.metric]}"
    where = f"experiment {escape(ordering.experiment)}"
    return f"{what} ({where}): {', '.join(words) or 'on none of these tracks'}"


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
