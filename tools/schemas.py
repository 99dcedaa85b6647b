"""The JSON schemas of the published documents, from their types: `python -m tools.schemas`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from benchmark.core import canonical_json
from benchmark.report.claims.document import Verdicts
from benchmark.report.document import schema
from benchmark.report.leaderboard.document import Leaderboard
from benchmark.results.origins import Provenance
from benchmark.results.records import RunLog

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

KINDS: dict[str, type[BaseModel]] = {
    "leaderboard": Leaderboard,
    "claims": Verdicts,
    "provenance": Provenance,
    "run-log": RunLog,
}


def main() -> None:
    """Writes a file for each kind of document."""
    for name, kind in KINDS.items():
        canonical_json.write(FOLDER / f"{name}.schema.json", schema(kind))


if __name__ == "__main__":
    main()
