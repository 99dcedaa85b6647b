"""The page "What to believe": one screen for somebody who trains networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.analysis.claims import tracks
from benchmark.analysis.claims.across import Across, If, Told
from benchmark.analysis.claims.rules import Shown
from benchmark.analysis.claims.tracks import TrackVerdicts
from benchmark.core.wording import counted
from benchmark.report.claims import formatting
from benchmark.report.claims.sentences import Sentences
from benchmark.report.markdown import escape, render

SHOWN: dict[If, str] = {
    "above": "a positive difference",
    "below": "a negative difference",
    "equivalent": "equivalence",
    "above_equivalent": "a positive difference within the margin",
    "below_equivalent": "a negative difference within the margin",
    "undetermined": "nothing",
    "unknown": "not known",
}
"""What is shown, or would be under another condition, in words."""

SMALL: frozenset[Shown] = frozenset({"above_equivalent", "below_equivalent"})
"""Differences too small to choose by."""

WRONG = ("refuted", "mixed")
"""Verdicts on sentences that are wrong, wholly or in part."""

_QUANTITIES = {
    "pretext_same_group": " of pretext accuracy",
    "pretext_regrouped": " of pretext accuracy",
    "swap_gap": " of swap gap",
}
"""What a difference is of, unless it is kNN accuracy or has a unit that states it."""


def markdown(
    root: Path,
    documents: Sequence[TrackVerdicts],
    claims: Sequence[Across],
    written: Mapping[str, Sentences],
) -> str:
    """The page. Raises UserError as `tracks.sizes` does."""
    return render(
        "what-to-believe.md.j2",
        tracks=[_track(root, document, claims) for document in documents],
        coverage=f"{100 * (1 - documents[0].level / documents[0].comparisons):.4g}",
        level=f"{100 * (1 - documents[0].level):.4g}",
        several=len(documents) > 1,
        imagenet=any("imagenet" in document.title.lower() for document in documents),
        decided=[_decided(entry, written[entry.claim.id]) for entry in claims if entry.decided],
        undecided=list(_undecided(claims)),
        wrong=list(_wrong(documents, claims)),
    )


def estimate(entry: Across, view: Told) -> str:
    """The estimate of a track with its interval and unit; there must be one."""
    assert view.finding
    shown = formatting.interval(view.finding, entry.advice.metric)
    unit = _unit(entry) + _QUANTITIES.get(entry.advice.metric, "")
    return f"{'at least ' if view.at_least else ''}{shown} {escape(unit)}"


def _unit(entry: Across) -> str:
    return entry.advice.unit or "points"


def _link(entry: Across) -> str:
    return f"[{escape(entry.claim.id)}](verdicts.md#{entry.claim.id.lower()})"


def agreed(entry: Across) -> str:
    """Whether the tracks agree, in words."""
    decided, rest = _names(entry.decided), [view for view in entry.views if not view.shown]
    tail = f"; not decided on {_names(rest)}" if rest and decided else ""
    match entry.agreement:
        case "undecided":
            return "not decided"
        case "one track":
            return f"decided on {decided} alone{tail}"
        case "differ":
            return f"{decided} **differ**{tail}"
    return f"{decided} {entry.agreement}{tail}"


def _track(root: Path, document: TrackVerdicts, claims: Sequence[Across]) -> str:
    views = [(entry, view) for entry in claims for view in entry.views]
    own = [(entry, view) for entry, view in views if view.track == document.track]
    counts = Counter(view.verdict for _, view in own)
    shown = ", ".join(
        f"{counts[word]} {word}" for word in ("supported", "refuted", "mixed", "undetermined")
        if counts[word]
    )  # fmt: skip
    names = {entry.claim.id for entry, view in own if view.shown}
    advices = [claim.advice for claim in document.claims if claim.advice and claim.id in names]
    size = tracks.sizes(root, document.track, advices)
    scale = f"; {document.scale}" if document.scale else ""
    if size:
        scale += f"; backbones of at most {size[0]:,} parameters, at most {size[1]:,} images seen"
    return f"`{document.track}` ({escape(document.title + scale)}): {shown}."


def _names(views: Sequence[Told]) -> str:
    names = [f"`{view.track}`" for view in views]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _decided(entry: Across, own: Sentences) -> tuple[str, str]:
    """What a claim's records show, and its evidence, in Markdown."""
    signs: dict[str, list[Told]] = {"above": [], "below": [], "equivalent": []}
    for view in entry.decided:
        signs[str(view.shown).removesuffix("_equivalent")].append(view)
    margin = f"{formatting.whole(entry.advice.margin, entry.advice.metric)} {_unit(entry)}"
    lead, *others = (sign for sign, views in signs.items() if views)
    small = [view for view in entry.decided if view.shown in SMALL]
    # Not str.format: only the margin is filled in.
    sentence = own.of(lead).shown.replace("{margin}", margin)
    said = f"On {_names(signs[lead])}, {escape(sentence)}"
    for sign in others:
        what = f"equivalence within {margin}" if sign == "equivalent" else "the opposite"
        said += f"; on {_names(signs[sign])} {escape(what)}"
    if small:
        where = "" if small == signs[lead] and not others else f" on {_names(small)}"
        said += f",{where} by less than the margin of {escape(margin)}"
    parts = [f"**{escape(entry.claim.title)}** ({_link(entry)}). {said}."]
    if entry.agreement == "differ":
        parts.append("**The tracks differ:** do not expect either elsewhere.")
    elif not others and not small:
        parts.append(f"*{escape(own.of(lead).advice)}*")
    if not others and any(gap.significant for gap in entry.gaps):
        parts.append("The size of the difference differs between tracks.")
    parts += [
        f"On `{view.track}` not decided: {view.why}." for view in entry.views if not view.shown
    ]
    return " ".join(parts), _evidence(entry)


def _evidence(entry: Across) -> str:
    """The estimates of the tracks that decide a claim, what would change them, and published results."""
    published = {view.track: _published(view) for view in entry.decided}
    same = len(set(published.values())) == 1
    parts = []
    for view in entry.decided:
        track = [_view(entry, view)]
        if not same and published[view.track]:
            track.append(published[view.track])
        parts.append(", ".join(track))
    if same and (shown := published[entry.decided[0].track]):
        parts.append(shown)
    return "; ".join(parts) + "."


def _published(view: Told) -> str:
    """Published orderings that the records show or contradict; those left open only without either."""
    counts = {word: view.published.get(word, 0) for word in ("agrees", "disagrees")}
    if not any(counts.values()):
        counts = {"undecided": view.published.get("undecided", 0)}
    shown = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    return f"published: {shown}" if shown else ""


def _view(entry: Across, view: Told) -> str:
    assert view.finding
    parts = [f"`{view.track}` {estimate(entry, view)}, {counted(view.finding.n, 'seed')}"]
    parts += [f"`{name}` has learnt nothing" for name in view.unlearnt]
    if view.steps:
        changed = sum(n for found, n in view.steps.items() if found not in (view.shown, "unknown"))
        known = sum(view.steps.values()) - view.steps.get("unknown", 0)
        parts += [f"{changed} of {known} other rates change it"] if known else []
    if view.images:
        parts.append(f"other images {'do not' if view.images == view.shown else 'may'}")
    return ", ".join(parts)


def _undecided(claims: Sequence[Across]) -> Iterator[str]:
    """The claims that no track decides, with those that lack the same in one line."""
    groups: dict[str, list[str]] = {}
    for entry in claims:
        if not entry.decided:
            reasons: dict[str, list[Told]] = {}
            for view in entry.views:
                reasons.setdefault(str(view.why), []).append(view)
            why = "; ".join(f"on {_names(views)} {reason}" for reason, views in reasons.items())
            groups.setdefault(why, []).append(f"{escape(entry.claim.title)} ({_link(entry)})")
    for why, names in groups.items():
        yield f"{', '.join(names)}: {why}."


def _wrong(documents: Sequence[TrackVerdicts], claims: Sequence[Across]) -> Iterator[str]:
    """The sentences that sources or a track's records refute, wholly or in part."""

    def listed(found: Mapping[str, list[str]]) -> str:
        return "; ".join(f"**{word}** {', '.join(found[word])}" for word in WRONG if found[word])

    described: dict[str, list[str]] = {word: [] for word in WRONG}
    for claim in documents[0].claims:
        if claim.description and claim.description.verdict in WRONG:
            sentence = f"{escape(claim.id)} “{escape(claim.sentence)}”"
            described[claim.description.verdict].append(sentence)
    if shown := listed(described):
        yield f"As descriptions of the methods, by code and papers: {shown}"
    for document in documents:
        advised: dict[str, list[str]] = {word: [] for word in WRONG}
        for entry in claims:
            for view in entry.decided:
                if view.track == document.track and view.verdict in WRONG:
                    advised[view.verdict].append(_link(entry))
        if shown := listed(advised):
            yield f"Read as advice, on `{document.track}`: {shown}."
