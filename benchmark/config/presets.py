"""Schemes by name: the usual norms in all sections, and the usual placements.

A track's `schemes` adds to these and may redefine a name.
"""

from __future__ import annotations

from typing import Any

UNIFORM: dict[str, dict[str, Any]] = {
    "bn": {"norm": "bn"},
    "ghost-bn": {"norm": "ghost-bn", "groups": 8, "assignment": "strided"},
    "batch-renorm": {"norm": "batch-renorm", "r_max": 3.0, "d_max": 5.0, "start": 100, "end": 300},
    "ln": {"norm": "ln"},
    "ln-position": {"norm": "ln-position"},
    "gn": {"norm": "gn", "groups": 8},
    "gn-ws": {"norm": "gn-ws", "groups": 8},
    "in": {"norm": "in"},
    "rmsnorm": {"norm": "rmsnorm"},
    "rmsnorm-position": {"norm": "rmsnorm-position"},
    "dyt": {"norm": "dyt", "alpha": 0.5},
    "derf": {"norm": "derf", "alpha": 0.5},
    "frn": {"norm": "frn"},
    "evonorm-s0": {"norm": "evonorm-s0", "groups": 8},
    "sepnorm": {"norm": "sepnorm"},
    "none-plain": {"norm": "none-plain"},
    "none-skipinit": {"norm": "none-skipinit"},
}
"""The same norm in all sections."""


def _split(backbone: str, heads: str) -> dict[str, Any]:
    return {"backbone": UNIFORM[backbone], "heads": UNIFORM[heads]}


PRESETS: dict[str, dict[str, Any]] = {
    **UNIFORM,
    # The model's own norms in the backbone.
    "own": {"norm": "own"},
    "own-bn-head": {"backbone": {"norm": "own"}, "heads": UNIFORM["bn"]},
    "own-ln-head": {"backbone": {"norm": "own"}, "heads": UNIFORM["ln"]},
    "bn-head-only": _split("none-plain", "bn"),
    "bn-backbone-only": _split("bn", "none-plain"),
    "gn-bn-head": _split("gn", "bn"),
    "ln-bn-head": _split("ln", "bn"),
    "ln-backbone-only": _split("ln", "none-plain"),
    "bn-gn-head": _split("bn", "gn"),
    "bn-ln-head": _split("bn", "ln"),
    # These two are undefined on the vectors of a head.
    "in-backbone": _split("in", "ln"),
    "frn-backbone": _split("frn", "ln"),
    "ghost-bn-no-shuffle": {**UNIFORM["ghost-bn"], "teacher": {"shuffle": False}},
    # The last norm of each residual branch starts at zero instead of one.
    "bn-zero": {"norm": "bn", "layout": {"branch_gain": 0}},
    "ln-zero": {"norm": "ln", "layout": {"branch_gain": 0}},
    "gn-zero": {"norm": "gn", "groups": 8, "layout": {"branch_gain": 0}},
    "bn-running": {"norm": "bn", "teacher": {"statistics": "running"}},
    "bn-momentum": {"norm": "bn", "teacher": {"statistics": "momentum"}},
    "bn-eman": {"norm": "bn", "teacher": {"statistics": "eman"}},
    "ln-post": {"norm": "ln", "layout": {"placement": "post"}},
    "ln-res-post": {"norm": "ln", "layout": {"placement": "res-post"}},
    "ln-qk": {"norm": "ln", "layout": {"qk_norm": True}},
    "ln-after-pool": {"norm": "ln", "layout": {"final_norm": "after-pool"}},
    "ln-class-token": {"norm": "ln", "layout": {"final_norm": "class-token"}},
    "ln-no-final": {"norm": "ln", "layout": {"final_norm": "none"}},
    "bn-mlp": {"norm": "bn", "layout": {"mlp_norm": True}},
}
