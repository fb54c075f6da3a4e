"""Makes docs/report.png anew: `python docs/report.py RUN/report.html`, in Chromium (`make browser` installs it)."""

import argparse
from pathlib import Path

from page import HERE, browsing


def main(arguments: list[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--section", help="scroll to it first: accuracy, segments, beyond, latency, training, origin")
    parser.add_argument("--out", type=Path, default=HERE / "report.png")
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    chosen = parser.parse_args(arguments)
    with browsing(chosen.width, chosen.height, chosen.scheme) as browser:
        browser.get(chosen.page.resolve().as_uri() + (f"#{chosen.section}" if chosen.section else ""))
        browser.save_screenshot(str(chosen.out))


if __name__ == "__main__":
    main()
