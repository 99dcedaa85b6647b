"""The page "What to believe": one screen for somebody who trains networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from benchmark.analysis.claims import tracks
from benchmark.analysis.claims.across import Across, If, Told
from benchmark.analysis.claims.rules import Shown
from benchmark.analysis.claims.schema import STABLE_RATE
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

LARGEST = "imagenet-1k"
"""The track of the data set that most published results are on."""

_QUANTITIES = {
    "pretext_same_group": " of pretext accuracy",
    "pretext_regrouped": " of pretext accuracy",
    "swap_gap": " of swap gap",
}
"""What a difference is of, unless it is kNN accuracy or has a unit that states it."""


def markdown(
    documents: Sequence[TrackVerdicts],
    claims: Sequence[Across],
    written: Mapping[str, Sentences],
) -> str:
    """The page."""
    return render(
        "what-to-believe.md.j2",
        tracks=[_track(document, claims) for document in documents],
        coverage=f"{100 * (1 - documents[0].level / documents[0].comparisons):.4g}",
        level=f"{100 * (1 - documents[0].level):.4g}",
        several=len(documents) > 1,
        imagenet=any(document.track == LARGEST for document in documents),
        decided=[_decided(entry, written[entry.claim.id]) for entry in claims if entry.decided],
        undecided=list(_undecided(claims)),
        described=list(_described(documents[0])),
        tested=list(_tested(documents, claims)),
    )


def estimate(entry: Across, view: Told) -> str:
    """The estimate of a track with its interval and unit; there must be one."""
    assert view.finding
    metric = entry.advice.metric
    shown = formatting.interval(view.finding, metric)
    if view.at_least:
        # The far end of the interval of a bound says nothing.
        mean = view.finding.estimate
        side, near = ("below", view.finding.high) if mean < 0 else ("above", view.finding.low)
        shown = f"at least {formatting.amount(mean, metric)}"
        shown += "" if near is None else f" ({side} {formatting.amount(near, metric)})"
    return f"{shown} {escape(_unit(entry) + _QUANTITIES.get(metric, ''))}"


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


def _track(document: TrackVerdicts, claims: Sequence[Across]) -> str:
    views = [(entry, view) for entry in claims for view in entry.views]
    own = [(entry, view) for entry, view in views if view.track == document.track]
    counts = Counter(view.verdict for _, view in own)
    shown = ", ".join(
        f"{counts[word]} {word}" for word in ("supported", "refuted", "mixed", "undetermined")
        if counts[word]
    )  # fmt: skip
    names = {entry.claim.id for entry, view in own if view.shown}
    decided = [claim.advice for claim in document.claims if claim.id in names]
    size = tracks.sizes(
        arm for own in decided if own and own.arms for arm in (own.arms.plus, own.arms.minus)
    )
    scale = f"; {document.scale}" if document.scale else ""
    if size:
        scale += f"; backbones of at most {size[0]:,} parameters, at most {size[1]:,} images seen"
        if document.training_images:
            scale += f" in training on {document.training_images:,}"
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
    # Not str.format: only the margin is filled in.
    sentence = own.of(lead).shown.replace("{margin}", margin)
    said = f"On {_names(signs[lead])}, {escape(sentence)}{_small(signs[lead], margin)}"
    for sign in others:
        what = f"equivalence within {margin}" if sign == "equivalent" else "the opposite"
        said += f"; on {_names(signs[sign])} {escape(what)}{_small(signs[sign], margin)}"
    small = any(view.shown in SMALL for view in entry.decided)
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


def _small(views: Sequence[Told], margin: str) -> str:
    """Says of which tracks with one sign the difference is within the margin."""
    small = [view for view in views if view.shown in SMALL]
    where = "" if small == views else f" on {_names(small)}"
    return f",{where} by less than the margin of {escape(margin)}" if small else ""


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
    """How many published results of the same question the records show, contradict or leave open."""
    words = {"agrees": "confirmed", "disagrees": "contradicted", "undecided": "left open"}
    shown = [f"{n} {words[word]}" for word in words if (n := view.published.get(word, 0))]
    return f"published: {', '.join(shown)}" if shown else ""


def _view(entry: Across, view: Told) -> str:
    assert view.finding
    parts = [f"`{view.track}` {estimate(entry, view)}, {counted(view.finding.n, 'seed')}"]
    parts += [f"`{name}` has learnt nothing" for name in view.unlearnt]
    parts += _rates(entry, view)
    if view.images:
        same = "holds" if view.images == view.shown else "not shown"
        parts.append(f"{same} over test images")
    return ", ".join(parts)


def _rates(entry: Across, view: Told) -> list[str]:
    """How the learning rates were chosen, and what others would show."""
    if entry.advice.metric == STABLE_RATE:
        return []
    if view.steps is None:
        return ["rate not tuned"]
    unknown = view.steps.get("unknown", 0)
    changed = sum(n for found, n in view.steps.items() if found not in (view.shown, "unknown"))
    rest = f" ({unknown} unknown)" if unknown else ""
    return [f"{changed} of {sum(view.steps.values())} rate steps{rest} change it"]


def _undecided(claims: Sequence[Across]) -> Iterator[str]:
    """The claims that no track decides, with those that lack the same in one line."""
    groups: dict[str, list[str]] = {}
    for entry in claims:
        if not entry.decided:
            reasons: dict[str, list[Told]] = {}
            for view in entry.views:
                reasons.setdefault(str(view.why), []).append(view)
            why = "; ".join(
                f"on {_names(views)} {reason}{_wide(entry, views)}"
                for reason, views in reasons.items()
            )
            groups.setdefault(why, []).append(f"{escape(entry.claim.title)} ({_link(entry)})")
    for why, names in groups.items():
        yield f"{', '.join(names)}: {why}."


def _wide(entry: Across, views: Sequence[Told]) -> str:
    """The estimates of tracks that decide nothing with all their seeds."""
    found = "; ".join(estimate(entry, view) for view in views if view.finding)
    return f" ({found})" if found else ""


def _described(document: TrackVerdicts) -> Iterator[str]:
    """The sentences that code and papers contradict, wholly or in part."""
    for word, part in (("refuted", ""), ("mixed", " in part")):
        for claim in document.claims:
            if claim.description and claim.description.verdict == word:
                yield f"{escape(claim.id)}{part} ({escape(claim.sentence.rstrip('.'))})"


def _tested(documents: Sequence[TrackVerdicts], claims: Sequence[Across]) -> Iterator[str]:
    """The claims whose advice a track's records refute, wholly or in part."""
    for document in documents:
        parts = []
        for word in ("refuted", "mixed"):
            links = [
                _link(entry)
                for entry in claims
                for view in entry.decided
                if (view.track, view.verdict) == (document.track, word)
            ]
            parts += [f"{', '.join(links)} {word}"] if links else []
        if parts:
            yield f"on `{document.track}`: {'; '.join(parts)}."
