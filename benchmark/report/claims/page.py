"""The verdicts for people: a summary, and for each claim what its verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmark.analysis.claims.judge import Judged
from benchmark.analysis.claims.literature import Library
from benchmark.analysis.claims.schema import Claims
from benchmark.analysis.ranks import Ranks
from benchmark.config.schema import Params
from benchmark.report.claims import formatting, ranking
from benchmark.report.claims.formatting import NONE, bullets, table
from benchmark.report.claims.section import advised
from benchmark.report.leaderboard.tables import escape


def markdown(
    claims: Claims,
    params: Params,
    found: Sequence[Judged],
    library: Library,
    compared: Mapping[str, str],
    ranks: Ranks | None = None,
) -> str:
    """The page; `compared` says of each published result how it compares with this track's records."""
    parts = [
        f"# Claims about normalization, judged {formatting.on_track(params.track)}",
        f"{escape(params.title)}. Judged by version {claims.version} of `claims.yaml`, as described in "
        "[docs/claims.md](../../docs/claims.md).",
        _summary(found, params.track),
        "## How to read this",
        bullets(_reading(claims)),
    ]
    for judged in found:
        parts += _section(judged, claims, params.track, library, compared)
    if ranks:
        parts += ranking.section(ranks)
    return "\n\n".join(parts) + "\n"


def _summary(found: Sequence[Judged], track: str) -> str:
    rows = []
    for judged in found:
        claim, finding = judged.claim, judged.difference and judged.difference.finding
        advice = claim.advice
        estimate, n, seen = NONE, NONE, NONE
        if advice and finding:
            least = "at least " if judged.at_least else ""
            unit = escape(formatting.unit(advice))
            estimate = f"{least}{formatting.interval(finding, advice.metric)} {unit}"
            n = str(finding.n)
            if finding.detectable:
                seen = (
                    f"{formatting.amount(finding.detectable, advice.metric, signed=False)} {unit}"
                )
        anchor = f"#{judged.name.lower()}"
        rows.append(
            [
                f"[{escape(judged.name)}]({anchor}) {escape(claim.title)}",
                claim.description.verdict if claim.description else NONE,
                f"**{judged.verdict}**" if judged.verdict else NONE,
                estimate,
                n,
                seen,
            ]
        )
    head = ["claim", "what the method does", f"what helps, on `{track}`", "estimate (interval)"]
    return table([*head, "seeds", "smallest effect it could see"], rows)


def _reading(claims: Claims) -> Iterator[str]:
    each = 1 - claims.level / claims.comparisons
    yield (
        "**what the method does** is decided by published code and papers alone, and no accuracy can "
        "change it. **what helps** is decided by one difference of two arms over paired seeds."
    )
    yield (
        f"The **interval** has {100 * each:.2f} %, so that all {claims.comparisons} hold together with "
        f"{100 * (1 - claims.level):g} %; **p adjusted** is {claims.comparisons} times p. The spread is "
        "the larger of the differences' own and the one pooled over the experiment's rows, each with "
        "its own degrees of freedom."
    )
    yield (
        "**Undetermined** means that the records do not say: some are missing, a training failed, "
        "neither arm has learnt, a better rate may lie beyond those tried, or the spread is too wide. "
        "No estimate is given from a part of the seeds."
    )
    yield (
        f"**Learnt** means at least {100 * claims.learnt:g} points above the better of two controls in "
        "the same experiment: the best untrained backbone of that kind, and raw pixels."
    )
    yield (
        "**Another learning rate**: by the sweep's fit on the validation split, what the verdict would "
        "be if one arm had been trained one step lower or higher. It shows how far a verdict depends on "
        "the rates, and decides nothing."
    )
    yield (
        "**Other test images**: the intervals are over seeds, on the track's test images. This is what "
        "the verdict would be with the variance over images added, of which more seeds show nothing. It "
        "decides nothing either."
    )
    yield (
        "**Equivalent** means shown to lie within the margin ("
        + ", ".join(
            f"{formatting.amount(margin, metric, signed=False)} for {formatting.METRICS[metric]}"
            for metric, margin in claims.margins.items()
        )
        + "), at the same level. It is not the absence of significance."
    )
    yield (
        "The **smallest effect it could see** is the true difference that such a design finds four "
        "times in five."
    )
    yield "Accuracies are in % on the test split, differences of accuracies in points."


def _section(
    judged: Judged, claims: Claims, track: str, library: Library, compared: Mapping[str, str]
) -> Iterator[str]:
    claim = judged.claim
    # An anchor of our own: what becomes of a heading's text differs from renderer to renderer.
    yield f'<a id="{judged.name.lower()}"></a>\n\n## {escape(judged.name)}: {escape(claim.title)}'
    yield f"> {escape(claim.sentence)}"
    if claim.description:
        sources = "; ".join(escape(library.entries[s].source) for s in claim.description.sources)
        yield (
            f"**What the method does: {claim.description.verdict}.** {escape(claim.description.why)} "
            f"Sources: {sources}."
        )
    if claim.advice:
        yield from advised(judged, claim.advice, claims, track)
    yield f"**What would change it.** {escape(claim.changes)}"
    if claim.literature:
        yield "**Published beside it** (more in [literature.md](../literature.md)):"
        yield _literature(claim.literature, library, compared)


def _literature(names: Sequence[str], library: Library, compared: Mapping[str, str]) -> str:
    rows = []
    for name in names:
        entry = library.entries[name]
        seen = "" if entry.status == "A" else " (**quoted by others, not read**)"
        rows.append(
            [
                escape(entry.source) + seen,
                escape(entry.setting),
                escape(entry.result),
                escape(compared[name]),
            ]
        )
    return table(["source", "setting", "result", "records here"], rows)
