"""The recipe of the image keeps its promises; `containers/check` builds and runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PINNED = r"sha256:[0-9a-f]{64}"


def stages() -> list[list[str]]:
    """The instructions of each stage, continued lines joined, comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found: list[list[str]] = [[]]
    for line in filter(None, map(str.strip, joined.splitlines())):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(line)
    return found


def test_every_stage_is_on_one_base_pinned_by_digest():
    head, *rest = stages()
    (base,) = head
    assert re.fullmatch(rf"ARG BASE_IMAGE=\S+@{PINNED}", base)
    assert [stage[0] for stage in rest] == ["FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"]
    # The label names the digest of that base, and of no other.
    assert len(set(re.findall(PINNED, TEXT))) == 1


def test_the_last_stage_only_copies_and_runs_as_nobody():
    last = stages()[-1]
    kinds = {line.split()[0] for line in last}
    assert kinds == {"FROM", "ARG", "LABEL", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    (user,) = (line.split()[1] for line in last if line.startswith("USER "))
    assert int(user.split(":")[0]) > 0


def test_nothing_comes_from_the_distribution_or_without_a_hash():
    commands = " ".join(line for stage in stages() for line in stage)
    assert "apt" not in commands
    assert "uv sync --quiet --locked" in commands
    assert "--require-hashes" in commands
    pins = (CONTAINERS / "uv.txt").read_text(encoding="utf-8")
    assert re.search(
        r"^uv==[\d.]+ \\\n(    --hash=sha256:[0-9a-f]{64} ?\\?\n)+", pins, re.MULTILINE
    )


def test_a_secret_is_only_mounted():
    for line in (line for stage in stages() for line in stage if "/run/secrets" in line):
        assert line.startswith("RUN --mount=type=secret")


def test_an_image_says_what_it_is():
    digest = f"sha256:{'d' * 64}"
    command = [sys.executable, str(CONTAINERS / "identity.py"), "c" * 40]
    done = subprocess.run(
        [*command, f"registry/base:1@{digest}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert set(found) == {"commit", "lock_sha256", "base", "base_digest"}
    assert (found["base"], found["base_digest"]) == ("registry/base:1", digest)
    refused = subprocess.run(
        [*command, "registry/base:1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode
    assert "not pinned" in refused.stderr


@pytest.mark.parametrize("script", ["build", "check", "run", "stand-in", "engine"])
def test_the_scripts_are_well_formed(script: str):
    subprocess.run(["bash", "-n", str(CONTAINERS / script)], check=True)
