"""The JSON schemas of the published JSON files, from their types: `python -m tools.schemas`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from benchmark.core import canonical_json
from benchmark.data.manifest import Manifest
from benchmark.planning.rate_table import RateTable
from benchmark.report.claims.across import SideBySide
from benchmark.report.claims.document import Verdicts
from benchmark.report.document import schema
from benchmark.report.leaderboard.document import Leaderboard
from benchmark.results.origins import Provenance
from benchmark.results.records import RunLog

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

KINDS: dict[str, type[BaseModel]] = {
    "leaderboard": Leaderboard,
    "claims": Verdicts,
    "verdicts": SideBySide,
    "manifest": Manifest,
    "rates": RateTable,
    "provenance": Provenance,
    "run-log": RunLog,
}


def main() -> None:
    """Writes a schema for each kind of file."""
    for name, kind in KINDS.items():
        canonical_json.write(FOLDER / f"{name}.schema.json", schema(kind))


if __name__ == "__main__":
    main()
