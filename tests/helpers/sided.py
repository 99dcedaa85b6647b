"""Made-up `claims.json` of two tracks, in which each claim shows what is asked for."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from tests.helpers.made_up import PROJECT

DF = 15
LEVEL = 0.05 / 10
T = float(stats.t.isf(LEVEL / 2, DF))
"""Half of an interval in standard errors."""

SHOWN = {
    # The mean and the half-width of the interval, both in margins.
    "above": (2.0, 0.5),
    "below": (-2.0, 0.5),
    "equivalent": (0.1, 0.5),
    "above_equivalent": (0.4, 0.2),
    "below_equivalent": (-0.4, 0.2),
}

LACKING = {
    "absent": "the track does not have this comparison",
    "missing": "training runs are missing",
    "failed": "a training run failed",
    "control": "a value, a control or a tuned learning rate is missing",
    "unlearnt": "neither arm has learnt",
    "edge": "the losing arm's learning rate is at the edge of those tried",
    "wide": "the seeds show neither a difference nor equivalence",
    "blocked": "equivalence is not shown while a learning rate is at the edge of those tried",
}
"""Why a claim can be undetermined, and how the pages word it."""

RULED = {
    # docs/claims.md: above, below, equivalent, above and equivalent, below and equivalent.
    "better": ("supported", "refuted", "refuted", "mixed", "refuted"),
    "no-worse": ("supported", "refuted", "supported", "supported", "mixed"),
    "differs": ("supported", "supported", "refuted", "mixed", "mixed"),
}

PUBLISHED: dict[str, Any] = json.loads((PROJECT / "results/mini/claims.json").read_text("utf-8"))
NAMES = [claim["id"] for claim in PUBLISHED["claims"]]


def verdict(rule: str, case: str) -> str:
    """The verdict that docs/claims.md gives."""
    return RULED[rule][list(SHOWN).index(case)] if case in SHOWN else "undetermined"


def differ(rule: str, cases: Sequence[str]) -> bool:
    """Whether docs/claims.md calls two tracks that decide a claim different."""
    words = {verdict(rule, case) for case in cases}
    if {case[:5] for case in cases} >= {"above", "below"}:
        return True
    (one, half), (other, beside) = (SHOWN[case] for case in cases)
    # Of equal degrees of freedom, so that Welch's interval is a little narrower than this.
    return words == {"supported", "refuted"} and abs(one - other) > math.hypot(half, beside)


def estimate(mean: float, half: float, margin: float) -> dict[str, Any]:
    """A published estimate of that interval."""
    se = half / T
    p = float(2 * stats.t.sf(abs(mean) / se, DF))
    beyond = float(stats.t.sf((margin - abs(mean)) / se, DF))
    return {
        "mean": mean, "low": mean - half, "high": mean + half, "se": se, "df": DF, "p": p,
        "p_adjusted": min(1.0, 10 * p), "significant": p <= LEVEL, "p_equivalence": beyond,
        "equivalent": beyond <= LEVEL, "detectable": half, "n": DF + 1, "own_sd": se * 4,
        "pooled_sd": se * 4, "pooled": True,
    }  # fmt: skip


def advice(own: dict[str, Any], case: str) -> dict[str, Any]:
    """The published advice with what a case shows or lacks."""
    own, margin = copy.deepcopy(own), own["margin"]
    arms = {
        side: {"name": side, "learnt": True, "at_edge": False, "parameters": 4321, "images": 8765}
        for side in ("plus", "minus")
    }
    own |= {
        "verdict": verdict(own["rule"], case), "at_least": False, "arms": arms,
        "planned": {"seeds": 16}, "sensitivity": None, "other_images": None,
        "cells": [{"status": "done", "sha256": "0" * 64}],
    }  # fmt: skip
    sizes = SHOWN | {"wide": (0.0, 3.0), "blocked": SHOWN["equivalent"]}
    mean, half = sizes.get(case, SHOWN["above"])
    own["estimate"] = estimate(mean * margin, half * margin, margin)
    if case in ("absent", "missing", "failed", "control"):
        own["estimate"] = None
    if case == "absent":
        own |= {"planned": None, "arms": None, "cells": []}
    if case == "missing":
        own["cells"] = [{"status": "missing", "sha256": None}]
    if case == "failed":
        own["cells"] = [{"status": "out-of-memory", "sha256": "0" * 64}]
    if case == "unlearnt":
        arms["plus"]["learnt"] = arms["minus"]["learnt"] = False
    if case == "edge":
        arms["minus"]["at_edge"] = True
    if case == "blocked":
        # The arm that is ahead: it could be further ahead still.
        arms["plus"]["at_edge"] = True
    return own


def document(track: str, cases: Mapping[str, str]) -> dict[str, Any]:
    """The `claims.json` of a track in which each claim shows or lacks what `cases` names."""
    found = copy.deepcopy(PUBLISHED) | {
        "track": track,
        "title": f"Images of {track}",
        "scale": None,
    }
    for claim in found["claims"]:
        claim["advice"] = advice(claim["advice"], cases.get(claim["id"], "missing"))
        claim["literature"] = {}
    return found


def stand(root: Path, *documents: Mapping[str, Any]) -> None:
    """A project with these documents and our sentences."""
    root.mkdir(exist_ok=True)
    shutil.copy(PROJECT / "believe.yaml", root)
    for found in documents:
        track = found["track"]
        if track != "mini":
            (root / "tracks" / track).mkdir(parents=True, exist_ok=True)
            (root / "tracks" / track / "params.yaml").touch()
        folder = root / "results" / track
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "claims.json").write_text(json.dumps(found), encoding="utf-8")
