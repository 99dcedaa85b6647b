"""The page of the day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.report.markdown import cells


def markdown(found: Mapping[str, Any]) -> str:
    """The document of the day as a page."""
    return "\n\n".join(_parts(found)) + "\n"


def _parts(found: Mapping[str, Any]) -> Iterator[str]:
    machine = ", ".join(f"{key} {value}" for key, value in sorted(found["machine"].items()))
    yield "# A day on a device"
    yield f"{machine}. Started {found['started']}, {found['minutes']:g} minutes."
    rows = [
        [name, part["state"], f"{part.get('seconds', '—')}", part.get("why", "")]
        for name, part in found["parts"].items()
    ]
    yield _table(["part", "state", "seconds", "note"], rows)
    tests, speed, trained = (found["parts"].get(name, {}) for name in ("tests", "speed", "cells"))
    if tests.get("count"):
        count = ", ".join(f"{number} {state}" for state, number in sorted(tests["count"].items()))
        yield f"## Tests\n\n{count}."
        if tests["failed"]:
            yield "\n".join(f"- `{name}`" for name in tests["failed"])
    if speed.get("cases"):
        yield "## Speed"
        yield "Beside other libraries: the pages in `figures/speed`."
        yield _table(["case", "state"], [[name, said] for name, said in speed["cases"].items()])
    if speed.get("at_once"):
        yield "## Cells at once"
        yield _table(
            ["case", "way", "cells at once", "MPS", "images a second", "cells an hour", "note"],
            [
                [
                    row["case"], row["way"], str(row["count"]), "yes" if row["mps"] else "no",
                    f"{row.get('images_per_second', '—')}", f"{row.get('cells_per_hour', '—')}",
                    row.get("why", ""),
                ]
                for row in speed["at_once"]
            ],
        )  # fmt: skip
        yield "Cells an hour are those of the training steps alone, without starts and evaluation."
    if "records" in trained:
        count = ", ".join(f"{n} {state}" for state, n in sorted(trained["records"].items()))
        yield "## Cells"
        yield (
            f"`{found['track']}/{found['experiment']}`, {trained['at_once']} at once: new records: "
            f"{count or 'none'}; cells with a checkpoint: {trained['unfinished']}."
        )
    yield "The records are published by `uv run benchmark adopt` with this folder."


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(map(cells, [head, [":--"] * len(head), *rows]))
