"""`delrec-lite bench`: latency of a bundle on real requests."""

EXAMPLE = "Example"


def bench() -> None:
    """Time a bundle."""
