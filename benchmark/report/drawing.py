"""What all figures have in common: their style, and SVG that is the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WIDTH = 9.0
"""Inches; 900 pixels in a browser at a README's scale."""

SIZE = 4.9
"""Of a mark, in points: small enough to leave an interval of one percent visible."""


@dataclass(frozen=True)
class Mark:
    """How a scheme is drawn: shapes and fills differ, so that it can be told without colour."""

    shape: str
    colour: str
    filled: bool

    @property
    def style(self) -> dict[str, Any]:
        """The mark for matplotlib's lines."""
        return {
            "color": self.colour,
            "marker": self.shape,
            "markersize": SIZE,
            "markeredgewidth": 1.2,
            "markerfacecolor": self.colour if self.filled else "white",
        }


NAMES = {"resnet": "ResNet", "vit": "ViT"}

SHAPES = "osD^vPX*"
# Okabe and Ito's colours, told apart with any colour vision, without the light yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
GREY = "#666666"
# Behind a note, so that lines do not run through its letters.
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}

# Points and lines on white, no frame, and nothing left to the settings of the machine.
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


def mark(place: int) -> Mark:
    """The mark of the scheme at a place of a list."""
    return Mark(
        SHAPES[place % len(SHAPES)],
        COLOURS[place % len(COLOURS)],
        (place // len(SHAPES) + place) % 2 == 0,
    )


def handle(label: str, **style: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Draws with this style alone; `salt` makes the identifiers in an SVG its own."""
    import matplotlib

    with matplotlib.rc_context():
        # What a user's matplotlibrc says must not show in a file under version control.
        settings: Any = matplotlib.rcParams
        settings.update(matplotlib.rcParamsDefault)
        settings.update(STYLE | {"svg.hashsalt": salt})
        yield


def svg(figure: Any) -> bytes:
    """A figure as SVG without a date; to be called while `drawing`."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
