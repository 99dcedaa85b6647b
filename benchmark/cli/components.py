"""`benchmark components`: writes the versions that DVC watches."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.components import registry
from benchmark.core import canonical_json
from benchmark.planning import plan

HELP = "write components.json, the versions DVC watches"


def run(arguments: argparse.Namespace) -> None:
    """Writes the versions that DVC watches."""
    target = arguments.root / "components.json"
    canonical_json.write(target, canonical_json.pretty(component_versions()))
    print(target)


def component_versions() -> dict[str, Any]:
    """The version of every component and part of the package; plug-ins are the user's own.

    The file is under version control, and must not depend on a user's plug-ins.
    """
    return {
        **{
            kind: {name: facts["version"] for name, facts in registry.own(kind).items()}
            for kind in registry.FOLDERS
        },
        "part": {part: plan.part_version(part) for part in plan.PARTS},
        "optional": {part: plan.part_version(part) for part in plan.OPTIONAL},
    }
