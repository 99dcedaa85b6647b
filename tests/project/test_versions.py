"""A version of the leaderboard that can be cited is frozen, with its records and its rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmark.config.params import read, track_file
from benchmark.core import canonical_json

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "results" / "VERSIONS.md"


def frozen(root: Path, track: str) -> tuple[str, str]:
    """Checksums of a published leaderboard's records and of its rules, as VERSIONS.md explains."""
    table = json.loads((root / "results" / track / "leaderboard.json").read_text(encoding="utf-8"))
    records = {entry["label"]: entry["sha256"] for row in table["rows"] for entry in row["records"]}
    interval = table["interval"]
    rules = {
        "experiment": read(track_file(root, track)).experiments["leaderboard"].model_dump(),
        "interval": {"level": interval["level"], "rule": interval["rule"]},
        "knn_k": table["knn_k"],
    }
    return canonical_json.checksum(records), canonical_json.checksum(rules)


def test_the_published_leaderboard_is_the_last_version():
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(
        r"^\| `(\w[\w-]*)` \| (\d+) \| ([\d-]{10}) \| `(\w{64})` \| `(\w{64})` \| [^|]+ \|$",
        text,
        re.M,
    )
    assert lines
    last = {track: (records, rules) for track, _, _, records, rules in lines}
    for track, known in last.items():
        assert frozen(ROOT, track) == known, (
            f"{track}: what changed is a new version in {PAGE.name}"
        )
    for track in last:
        numbers = [int(number) for name, number, *_ in lines if name == track]
        assert numbers == list(range(1, len(numbers) + 1))
        assert text.count(f"ssl-norm-benchmark-{track}-{numbers[-1]},") == 1, "its BibTeX entry"


def test_a_superseded_version_is_still_the_one_that_was_cited():
    """Its table has the records whose checksum the page of versions lists."""
    text = PAGE.read_text(encoding="utf-8")
    (listed,) = re.findall(r"^\| `mini` \| 1 \| [\d-]{10} \| `(\w{64})`", text, re.M)
    folder = ROOT / "results" / "mini-1"
    table = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    records = {entry["label"]: entry["sha256"] for row in table["rows"] for entry in row["records"]}
    assert canonical_json.checksum(records) == listed
    for page in folder.glob("*.md"):
        assert "**Superseded.**" in page.read_text(encoding="utf-8"), page.name


def test_the_citation_names_the_versions_page():
    assert "results/VERSIONS.md" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "results/VERSIONS.md" in (ROOT / "README.md").read_text(encoding="utf-8")
