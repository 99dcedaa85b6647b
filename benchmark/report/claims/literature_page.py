"""The page of published results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmark.analysis.claims.literature import METRICS, Entry, Library, Ordering, compare_rows
from benchmark.config.overrides import flags
from benchmark.report.markdown import escape, render
from benchmark.results.rows import RecordIndex


def markdown(library: Library, indexes: Mapping[str, RecordIndex]) -> str:
    """The page, claim by claim; `indexes` are those of the tracks to compare with."""
    here = partial(_here, indexes=indexes)
    stated = {track: flags(index.params.overrides) for track, index in indexes.items()}
    return render(
        "literature.md.j2",
        library=library,
        address=_address,
        here=here,
        overrides={track: given for track, given in stated.items() if given},
    )


def _address(at: str) -> str:
    if at[:4].isdigit() and at[4:5] == ".":
        return f"[{at}](https://arxiv.org/abs/{at})"
    if at.startswith("https://"):
        return f"[{escape(at.removeprefix('https://'))}]({at})"
    return escape(at)


def _here(entry: Entry, indexes: Mapping[str, RecordIndex]) -> str:
    if entry.not_comparable is not None:
        return f"not comparable: {escape(entry.not_comparable)}"
    return "<br>".join(_compared(ordering, indexes) for ordering in entry.compare)


def _compared(ordering: Ordering, indexes: Mapping[str, RecordIndex]) -> str:
    tracks = []
    for track, index in indexes.items():
        comparison = compare_rows(ordering, index)
        if comparison is None:
            continue
        shown = f"{escape(track)} **{comparison.word}**"
        if comparison.difference is not None:
            half = "" if comparison.half is None else f" ± {100 * comparison.half:.1f}"
            shown += f" ({100 * comparison.difference:+.1f}{half} points)"
        tracks.append(shown)
    rows = f"`{ordering.higher}` above `{ordering.lower}` in {METRICS[ordering.metric]}"
    where = f"experiment {escape(ordering.experiment)}"
    return f"{rows} ({where}): {', '.join(tracks) or 'on none of these tracks'}"
