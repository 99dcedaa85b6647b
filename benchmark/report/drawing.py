"""What all figures share: their style, and SVG that has the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WIDTH = 9.0
"""Inches; 900 pixels in a browser at a README's scale."""

SIZE = 4.9
"""Of a mark, in points: small enough to leave an interval of one percent visible."""


NAMES = {"resnet": "ResNet", "vit": "ViT"}

SHAPES = "osD^vPX*"
# Okabe and Ito's colours without the light yellow, for every kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
GREY = "#666666"
# Behind a note, so that no line crosses its letters.
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}

# Points and lines on white, no frame, and nothing from the settings of the machine.
STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#333333",
    "ytick.color": "#111111",
    "ytick.major.size": 0,
}


def mark(place: int) -> dict[str, Any]:
    """The style of the scheme at a place of a list, for matplotlib's lines.

    Shapes and fills differ, so that schemes can be told apart without colour.
    """
    colour = COLOURS[place % len(COLOURS)]
    return {
        "color": colour,
        "marker": SHAPES[place % len(SHAPES)],
        "markersize": SIZE,
        "markeredgewidth": 1.2,
        "markerfacecolor": colour if (place // len(SHAPES) + place) % 2 == 0 else "white",
    }


def handle(label: str, **style: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Draws with this style alone; `salt` makes the identifiers in an SVG unique."""
    import matplotlib

    with matplotlib.rc_context():
        # A user's matplotlibrc must not affect a file under version control.
        settings: Any = matplotlib.rcParams
        settings.update(matplotlib.rcParamsDefault)
        settings.update(STYLE | {"svg.hashsalt": salt})
        yield


def svg(figure: Any) -> bytes:
    """A figure as SVG without a date; to be called inside `drawing`."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
