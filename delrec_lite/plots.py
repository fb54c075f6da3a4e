"""SVG pictures by matplotlib, the same bytes from the same figures; no display, and pyplot is never touched."""

from collections.abc import Callable
from io import StringIO
from typing import Any

from delrec_lite.errors import MissingPackageError, install_line

# Read on a white page and on a dark one.
GREY = "#888888"
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.08,  # inches
    "figure.constrained_layout.w_pad": 0.1,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text stays text
    "xtick.color": GREY,
    "ytick.color": GREY,
}
_NOTHING = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(name: str, width: float, height: float, draw: Callable[[Any], None], ink: str = "#000000") -> str:
    """An SVG picture.

    Args:
        name: Ids within the picture are made from it, so that two pictures of one page have none in common.
        width: Pixels.
        height: Pixels.
        draw: Draws on the empty ``matplotlib.figure.Figure`` that it gets.
        ink: Colour of text; black is left to a page's own style.

    Returns:
        The element ``<svg>``, a file of its own or a part of a page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "pictures need matplotlib, which is not installed", install_line("matplotlib")
        ) from error
    # The user's own settings would change the picture; the backend is theirs.
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    coloured = {"text.color": ink, "axes.labelcolor": ink, "xtick.labelcolor": ink, "ytick.labelcolor": ink}
    text = StringIO()
    with matplotlib.rc_context({**defaults, **_STYLE, **coloured, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        draw(figure)
        figure.savefig(text, format="svg", metadata=_NOTHING)
    whole = text.getvalue()
    return whole[whole.index("<svg") :].replace('pt"', '"', 2)  # of width and height: a point here is a pixel
