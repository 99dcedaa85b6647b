"""The leaderboard as Markdown for people, CSV for spreadsheets and JSON for programs.

Every file is a function of the records alone: no times, hosts or paths.
"""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.analysis.gate import LEARNT
from benchmark.analysis.leaderboard import Cost, Entry, Metric, Setting, Table
from benchmark.analysis.statistics import LEVEL, Estimate
from benchmark.core import canonical_json
from benchmark.results.metrics import RANKING
from benchmark.results.origins import MARKS, UNRECORDED, Origin, marks

SCHEMA = 2
"""Version of the JSON layout; see docs/leaderboard-json.md."""

DIGITS = 6
"""Decimals of the JSON file."""

RULE = (
    "mean ± t(.975, df) · s / √n over the n seeds of a row, cut to 0..1; s is the standard "
    "deviation within rows, pooled over the rows of the same backbone whose every seed finished, per "
    "metric and apart for trained and untrained rows; df = Σ (nᵢ − 1) over the pooled rows. Raw "
    "pixels do not depend on a seed: low = high = mean"
)

SHORT_RULE = "mean ± t(.975; df) · s / √n; s within rows pooled over rows"
"""For a line of the CSV file, which has no place for more."""

MEASURED = ("backbone", "projector")
"""Sections that the diagnostics look at."""

PARTIAL, RATE_EDGE, PENALTY_EDGE, MARKED, NOT_LEARNT = "†", "‡", "§", "¶", "∅"


def escape(text: object) -> str:
    """Text that Markdown shows as it is, in a table too: no markup, no HTML, one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_~\[\]$#])", r"\\\1", line)


def environment_name(place: int) -> str:
    """A, B, … for the places of a table's environments."""
    return chr(ord("A") + place) if place < 26 else f"A{place}"


def json(table: Table) -> str:
    """The table for programs, as documented in docs/leaderboard-json.md."""
    return canonical_json.pretty(
        {
            "schema": SCHEMA,
            "track": table.track,
            "title": table.title,
            "experiment": table.experiment,
            "dataset": table.dataset,
            "knn_k": list(table.neighbours),
            "interval": {
                "level": LEVEL,
                "rule": RULE,
                "pools": [
                    {
                        "metric": pool.metric,
                        "backbone": pool.backbone,
                        "trained": pool.trained,
                        "sd": rounded(pool.spread.sd),
                        "df": pool.spread.df,
                    }
                    for pool in table.pools
                    if pool.spread.df
                ],
            },
            "environments": [dict(environment) for environment in table.environments],
            "rows": [_json_row(entry, table.metrics[0]) for entry in table.entries],
        }
    )


def _json_row(entry: Entry, ranking: Metric) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": entry.row.method,
        "backbone": entry.row.backbone,
        "scheme": entry.row.scheme,
        "control": entry.control,
        "rank": entry.rank,
        "learnt": entry.learnt,
        "best_scheme": entry.best,
        "tied_for_best": entry.tied,
        "seeds": list(entry.seeds),
        "status": entry.status,
        "statuses": entry.counts,
        "complete": entry.complete,
    }
    for name, found in entry.estimates.items():
        row[name] = None if found is None else _json_estimate(found)
    rates = entry.rates
    row["learning_rate"] = rates and {
        "tuned": _json_setting(rates.tuned),
        "default": _json_setting(rates.default),
        "at_edge": rates.at_edge,
    }
    row["linear_penalty_at_edge"] = entry.penalty_at_edge
    row["embedding_spread"] = {name: rounded(value) for name, value in entry.collapse.items()}
    row["relative_update"] = {name: rounded(value) for name, value in entry.updates.items()}
    row["cost"] = {
        "parameters": entry.cost.parameters,
        "images": entry.cost.images,
        "tflop": rounded(entry.cost.tflop),
    }
    row["environments"] = list(entry.environments)
    row["records"] = [
        {
            "label": p.label,
            "seed": p.seed,
            "status": p.record.status,
            ranking.name: rounded(p.record.result.metrics.get(ranking.key)),
            "sha256": p.checksum,
            "provenance": _json_origin(origin),
            "marks": list(marks(origin, p)),
        }
        for p, origin in zip(entry.records, entry.origins, strict=True)
    ]
    return row


def _json_origin(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    image = origin.program.get("image")
    return {
        "commit": origin.program.get("commit"),
        "lock_sha256": origin.program.get("lock_sha256"),
        "image": image and (image.get("id") or f"{image['base']}@{image['base_digest']}"),
    }


def _json_estimate(found: Estimate) -> dict[str, Any]:
    return {
        "mean": rounded(found.mean),
        "low": rounded(found.low),
        "high": rounded(found.high),
        "sd": rounded(found.sd),
        "n": found.n,
    }


def _json_setting(setting: Setting | None) -> dict[str, Any] | None:
    if setting is None:
        return None
    # Rates are what was typed or swept, exact; only what was measured is rounded.
    return {
        "learning_rate": setting.rate,
        "weight_decay": setting.weight_decay,
        "validation": rounded(setting.validation),
    }


def rounded(value: float | None) -> float | None:
    """A measured number as the JSON files have it; null stays null, and minus zero is zero."""
    return None if value is None else round(value, DIGITS) + 0.0


def csv(table: Table) -> str:
    """The table with one line a row: accuracies in percent, empty where there is none."""
    names = [metric.name for metric in table.metrics]
    head = ["rank", "backbone", "method", "scheme", "control", "learnt", "best_scheme"]
    head += ["tied_for_best", "seeds", "status"]
    head += ["statuses"]
    for name in names:
        head += [f"{name}_percent{part}" for part in ("", "_low", "_high", "_sd")]
    for which in ("tuned", "default"):
        head += [f"rate_{which}", f"weight_decay_{which}", f"validation_percent_{which}"]
    head += [
        "rate_at_edge",
        "linear_penalty_at_edge",
        *(f"spread_{section}" for section in MEASURED),
        *(f"relative_update_{section}" for section in MEASURED),
        "parameters",
        "images",
        "tflop",
    ]
    head += ["environments", "interval"]
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow(head)
    for entry in table.entries:
        writer.writerow(["" if value is None else value for value in _csv_row(entry, names)])
    return out.getvalue()


def _csv_row(entry: Entry, names: Sequence[str]) -> list[Any]:
    row: list[Any] = [entry.rank, entry.row.backbone, entry.row.method, entry.row.scheme]
    row += [_yes(entry.control), "" if entry.learnt is None else _yes(entry.learnt)]
    row += [_yes(entry.best), _yes(entry.tied), " ".join(map(str, entry.seeds)), entry.status]
    row += [_counts(entry)]
    for name in names:
        found = entry.estimates[name]
        parts = (found.mean, found.low, found.high, found.sd) if found else (None,) * 4
        row += [_percent(value, DIGITS - 2) for value in parts]
    rates = entry.rates
    for setting in (rates.tuned, rates.default) if rates else (None, None):
        if setting is None:
            row += [None] * 3
        else:
            row += [setting.rate, setting.weight_decay]
            row += [_percent(setting.validation, DIGITS - 2)]
    row += [_yes(rates.at_edge) if rates else None, _yes(entry.penalty_at_edge)]
    row += [rounded(entry.collapse.get(section)) for section in MEASURED]
    row += [rounded(entry.updates.get(section)) for section in MEASURED]
    row += [entry.cost.parameters, entry.cost.images, rounded(entry.cost.tflop)]
    row += [" ".join(environment_name(place) for place in entry.environments), SHORT_RULE]
    return row


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _percent(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{100 * value:.{digits}f}"


def _counts(entry: Entry) -> str:
    return ", ".join(f"{count} {status}" for status, count in entry.counts.items())


def markdown(table: Table, figure: str) -> str:
    """The table for people, backbone by backbone; `figure` is the address of the figure."""
    ranked = [entry for entry in table.entries if not entry.control]
    seeds = {len(entry.seeds) for entry in ranked}
    count = min(seeds, default=0)
    spread = f"over {count} seed{'s' if count > 1 else ''}" if len(seeds) == 1 else "over the seeds"
    parts = [
        f"# {_heading(table.experiment)}: {escape(table.title)}",
        f"Accuracy in % of frozen embeddings on the test split, {spread} of every method × "
        f"backbone × normalization scheme (track `{_code(table.track)}`).",
        f"![kNN accuracy by method and scheme]({figure})",
    ]
    for backbone in table.backbones:
        parts += [f"## {_heading(_backbone(backbone))}", _backbone_table(table, backbone)]
    parts += ["## How to read this", _bullets(_reading(table))]
    parts += ["## The rules", _bullets(_rules(table))]
    parts += ["## Environments", _environments(table)]
    parts += ["## Provenance", _provenance(table)]
    return "\n\n".join(parts) + "\n"


def _backbone_table(table: Table, backbone: str) -> str:
    entries = table.of(backbone)
    own = [e for e in entries if e.row.backbone == backbone]
    # A readout that the backbone does not have is no column.
    columns = [
        metric
        for metric in table.metrics
        if metric.name != "class_token" or any(e.estimates[metric.name] for e in own)
    ]
    head = ["#", "method", "scheme", *(metric.title for metric in columns)]
    head += ["spread", "update, %", "lr tuned", "lr default", "params · images · TFLOP", "status"]
    lines = [head, ["--:", ":--", ":--", *["--:"] * (len(columns) + 5), ":--"]]
    many = len(table.environments) > 1
    for entry in entries:
        scheme = escape(entry.row.scheme)
        accuracies = []
        for place, metric in enumerate(columns):
            same = metric.name == "knn" and _is_same(entry, metric, columns[0])
            shown = "=" if same else _accuracy(entry, metric.name)
            accuracies.append(f"**{shown}**" if entry.tied and place == 0 else shown)
        tuned, default = _settings(entry)
        status = escape(_counts(entry))
        if entry.learnt is False and not entry.control:
            status += f" {NOT_LEARNT}"
        if many:
            status += f", env. {' '.join(environment_name(p) for p in entry.environments)}"
        if entry.marks:
            status += f" {MARKED}"
        lines.append(
            [
                "" if entry.rank is None else str(entry.rank),
                escape(entry.row.method),
                f"**{scheme}**" if entry.tied else scheme,
                *accuracies,
                _spread(entry),
                _updates(entry),
                tuned,
                default,
                _cost(entry.cost),
                status,
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_same(entry: Entry, metric: Metric, other: Metric) -> bool:
    """Whether two metrics, of which there is at least one value, agree for every seed."""
    found = [p.record.result.metrics for p in entry.records]
    return entry.estimates[metric.name] is not None and all(
        result.get(metric.key) == result.get(other.key) for result in found
    )


def _accuracy(entry: Entry, name: str) -> str:
    found = entry.estimates[name]
    if found is None:
        return "—"
    shown = f"{100 * found.mean:.1f}"
    if found.half_width:
        shown += f" ± {100 * found.half_width:.1f}"
    if found.n < len(entry.seeds):
        shown += f" {PARTIAL}"
    if name == "linear" and entry.penalty_at_edge:
        shown += f" {PENALTY_EDGE}"
    return shown


def _spread(entry: Entry) -> str:
    shown = ("—" if value is None else f"{value:.2f}" for value in entry.collapse.values())
    return " · ".join(shown) or "—"


def _updates(entry: Entry) -> str:
    shown = ("—" if value is None else f"{100 * value:.2g}" for value in entry.updates.values())
    return " · ".join(shown) or "—"


def _settings(entry: Entry) -> tuple[str, str]:
    rates = entry.rates
    if rates is None:
        return "—", "—"
    mark = f" {RATE_EDGE}" if rates.at_edge else ""
    if rates.tuned is None:
        return "—", _setting(rates.default)
    return _setting(rates.tuned) + mark, _setting(rates.default)


def _setting(setting: Setting) -> str:
    if setting.validation is None:
        return f"{setting.rate:g}"
    return f"{setting.rate:g} (val. {100 * setting.validation:.1f})"


def _cost(cost: Cost) -> str:
    size = "—" if cost.parameters is None else _short(cost.parameters)
    if not cost.images:
        return f"{size} · 0 · 0"
    compute = "—" if cost.tflop is None else f"{cost.tflop:.3g}"
    return f"{size} · {_short(cost.images)} · {compute}"


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _reading(table: Table) -> Iterable[str]:
    near, far = table.neighbours
    yield (
        f"**kNN** is the top-1 accuracy of {near} nearest neighbours, with batch statistics "
        "re-estimated on the training split; it tunes the learning rates, ranks the rows and decides "
        "the claims. **kNN, running**: with the running statistics of the training; `=` where that "
        "gives the same kNN for every seed, as it must without batch statistics. "
        f"**kNN-{far}**: {far} neighbours. **linear**: a linear probe. "
        f"**class token**: {near} neighbours of the class token, for backbones that have one; every "
        "other column takes the pooled embedding."
    )
    yield (
        "**Bold** marks the best scheme of each method by mean kNN, and the schemes that are not told "
        "apart from it: their difference is within the 95 % interval of a difference of two rows, √2 "
        "times as wide as theirs and not adjusted for how many are compared, or their best rate is at "
        f"an edge ({RATE_EDGE}). Intervals are over seeds, on these images and these networks."
    )
    yield (
        f"{NOT_LEARNT} has learnt nothing: its kNN is not {100 * LEARNT:g} points above both raw pixels "
        "and the best untrained backbone. Such a row has no rank, and no scheme of it is bold."
    )
    yield (
        "**lr tuned** is what the row was trained with, **lr default** the recipe's; `val.` is the "
        "kNN accuracy on the *validation* split in the sweep (its own seeds; for lr tuned the value of "
        "the fit through all rates), not comparable with the test columns."
    )
    yield (
        "**spread** is √d times the standard deviation of unit-length embeddings of d dimensions, "
        "averaged over them: near 1 when they point in all directions, 0 when they have collapsed to "
        "one. First the backbone's, whose features share a direction when healthy too; then the "
        "projector's, where the method has one."
    )
    yield (
        "**update** is the relative size of a step, ‖Δw‖ / ‖w‖ over the weights of the backbone, then "
        "of the projector and so on: the median over the training. One learning rate is another step "
        "with and without a norm, since a norm makes the scale of the weights before it immaterial."
    )
    yield (
        "**params** counts the backbone; **images** are training images, repetitions counted and "
        "views not; **TFLOP** is the compute of one training (— if unknown, or if none finished)."
    )
    yield (
        f"{PARTIAL} mean of only the seeds that have a value. {RATE_EDGE} the best rate tried was "
        "the lowest or highest, so a better one may lie beyond (or no rate scored). "
        f"{PENALTY_EDGE} for at least one seed the probe chose the weakest or strongest penalty."
    )


def _rules(table: Table) -> Iterable[str]:
    yield (
        f"The interval ({LEVEL:.0%}) is {RULE}. It assumes that the pooled rows spread alike. The "
        "CSV and JSON files have each row's own standard deviation too."
    )
    pools = [
        f"{escape(_backbone(pool.backbone))} {'trained' if pool.trained else 'untrained'} "
        f"s = {100 * pool.spread.sd:.2f}, df = {pool.spread.df}"
        for pool in table.pools
        if pool.metric == RANKING and pool.spread.sd is not None
    ]
    if pools:
        yield f"For kNN, in points of accuracy: {'; '.join(pools)}."
    yield (
        "A seed that diverged or ran out of memory is a result: it has no accuracy, is counted in "
        "the status, ranks its row behind every row whose seeds all finished, and keeps the row "
        "out of the pooled spread."
    )
    yield (
        "Controls are not ranked: `supervised` was trained with the labels, `untrained` is the "
        "backbone as initialised, `raw-pixels` has no backbone and is one value for all backbones."
    )
    if missing := table.missing_controls():
        yield f"This experiment does not have the controls: {', '.join(missing)}."
    if any("crashed" in entry.statuses for entry in table.entries):
        yield "A crash is not a result: those cells are to be trained again."


def _environments(table: Table) -> str:
    lines = []
    for place, environment in enumerate(table.environments):
        facts = ", ".join(f"{key} {environment[key]}" for key in sorted(environment))
        lines.append(f"{environment_name(place)}: {escape(facts)}")
    many = (
        "The rows were **not** all computed in the same environment; the status column says which."
    )
    single = "All rows were computed in the same environment."
    return f"{many if len(lines) > 1 else single}\n\n{_bullets(lines)}"


def _provenance(table: Table) -> str:
    """Which programs made how many of the records, and what is to be said against any."""
    made: dict[str, int] = {}
    against: dict[str, int] = {}
    for entry in table.entries:
        for origin, p in zip(entry.origins, entry.records, strict=True):
            found = marks(origin, p)
            for mark in found:
                against[mark] = against.get(mark, 0) + 1
            if origin is not None and UNRECORDED not in found:
                who = _program(origin)
                made[who] = made.get(who, 0) + 1
    lines = [f"{_records(count)}: {who}." for who, count in made.items()]
    lines += [
        f"{MARKED} {_records(count)} {'is' if count == 1 else 'are'} **{mark}**: {MARKS[mark]}."
        for mark, count in against.items()
    ]
    command = f"uv run benchmark provenance --track {table.track} --experiment {table.experiment}"
    return f"{_bullets(lines)}\n\n`{_code(command)} CELL` says everything about one record."


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _program(origin: Origin) -> str:
    """One program in words, as Markdown."""
    program, machine = origin.program, origin.machine
    commit = program.get("commit")
    words = [f"commit `{commit[:12]}`" if commit else "unknown commit"]
    if lock := program.get("lock_sha256"):
        words.append(f"uv.lock `{lock[:12]}`")
    if program.get("reconstructed"):
        return ", ".join(words)
    image = program.get("image")
    if image:
        words.append(f"image `{_code(str(image.get('id') or image['base_digest']))}`")
    else:
        words.append("no image")
    return ", ".join([*words, escape(machine.get("cpu") or machine.get("platform") or "")])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _heading(text: str) -> str:
    shown = escape(text)
    return shown[:1].upper() + shown[1:]


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _backbone(name: str) -> str:
    return {"resnet": "ResNet", "vit": "ViT"}.get(name, name)
