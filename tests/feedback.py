"""Lines of a feedback log, for the tests that need some."""

from delrec_lite.server.feedback.records import Event, Served


def served(request, items=("i1", "i2", "i3"), who=None, bundle="tiny@1", arm="A", history=None, time=1e9, catalogue=40):
    """A list whose first item has the highest score."""
    scored = [(item, float(len(items) - n)) for n, item in enumerate(items)]
    return Served(time, request, who, bundle, catalogue, arm, "model", scored, history)


def click(request, item, event="click", value=None):
    """An event after it."""
    return Event(request, item, event, value, 1e9 + 60)
