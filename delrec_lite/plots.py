"""SVG pictures by matplotlib: reproducible bytes, no display, no pyplot."""

from collections.abc import Callable
from io import StringIO
from typing import Any

from delrec_lite.errors import MissingPackageError, install_line

# Readable on a white and on a dark page.
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
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(name: str, width: float, height: float, draw: Callable[[Any], None], ink: str = "#000000") -> str:
    """An SVG picture.

    Args:
        name: Prefix of the ids in the picture, so that two pictures of one page share none.
        width: Pixels.
        height: Pixels.
        draw: Called with an empty ``matplotlib.figure.Figure`` to draw on.
        ink: Colour of text; with black, the page's style decides.

    Returns:
        The element ``<svg>``, for a file or a part of a page.

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
    # The user's settings would change the picture; the backend stays as the user set it.
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    colours = {"text.color": ink, "axes.labelcolor": ink, "xtick.labelcolor": ink, "ytick.labelcolor": ink}
    text = StringIO()
    with matplotlib.rc_context({**defaults, **_STYLE, **colours, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        draw(figure)
        figure.savefig(text, format="svg", metadata=_NO_METADATA)
    document = text.getvalue()
    return document[document.index("<svg") :].replace('pt"', '"', 2)  # width and height: a point is a pixel here
