"""The published results as a page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmark.analysis.claims.literature import METRICS, Entry, Library, Ordering, judge
from benchmark.report.markdown import escape, render
from benchmark.results.rows import RecordIndex


def markdown(library: Library, indexes: Mapping[str, RecordIndex]) -> str:
    """The library for people, claim by claim; `indexes` are those of the tracks to compare with."""
    here = partial(_here, indexes=indexes)
    return render("literature.md.j2", library=library, address=_address, here=here)


def _address(at: str) -> str:
    if at[:4].isdigit() and at[4:5] == ".":
        return f"[{at}](https://arxiv.org/abs/{at})"
    if at.startswith("https://"):
        return f"[{escape(at.removeprefix('https://'))}]({at})"
    return escape(at)


def _here(entry: Entry, indexes: Mapping[str, RecordIndex]) -> str:
    if entry.not_comparable is not None:
        return f"not comparable: {escape(entry.not_comparable)}"
    return "<br>".join(_said(ordering, indexes) for ordering in entry.compare)


def _said(ordering: Ordering, indexes: Mapping[str, RecordIndex]) -> str:
    words = []
    for track, index in indexes.items():
        judged = judge(ordering, index)
        if judged is None:
            continue
        shown = f"{escape(track)} **{judged.word}**"
        if judged.difference is not None:
            half = "" if judged.half is None else f" ± {100 * judged.half:.1f}"
            shown += f" ({100 * judged.difference:+.1f}{half} points)"
        words.append(shown)
    what = f"`{ordering.higher}` above `{ordering.lower}` in {METRICS[ordering.metric]}"
    where = f"experiment {escape(ordering.experiment)}"
    return f"{what} ({where}): {', '.join(words) or 'on none of these tracks'}"
