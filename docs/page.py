"""Makes docs/page.png anew: `python docs/page.py BUNDLE`, in Chromium (`make browser` installs it)."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What the picture shows where the server can do it.
DIVERSITY = 0.3


@contextmanager
def announced(command: Sequence[str | Path], address_in: Callable[[str], str | None], name: str) -> Iterator[str]:
    """The address that a server says.

    Args:
        command: Starts it.
        address_in: The address in a line of its standard error; None: it is in another one.
        name: Of the server, for the error.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = []
        try:
            for line in server.stderr:
                said.append(line)
                if address := address_in(line):
                    yield address
                    return
            sys.exit(f"{name} ended:\n" + "".join(said))
        finally:
            server.terminate()


def serving(bundle: Path) -> AbstractContextManager[str]:
    """The address of a server of a bundle."""
    program = Path(sys.executable).parent / "delrec-lite"
    command = [program, "serve", bundle, "--port", "0"]
    return announced(command, lambda line: json.loads(line)["address"] if '"address"' in line else None, "the server")


@contextmanager
def browsing(width: int, height: int, scheme: str, *more: str) -> Iterator[Any]:
    """A Chromium without a window; ``more`` are options of its command line."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        sys.exit("there is no chromium or no chromedriver here: make browser installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        *more,
    ):
        options.add_argument(option)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        yield browser
    finally:
        browser.quit()


def fill(browser: Any, address: str, titles: list[str]) -> None:
    """Open the page, choose a history, wish what the server knows, and open the first explanation."""

    def wait(script: str) -> None:
        deadline = time.monotonic() + 60
        while not browser.execute_script(f"return {script}"):
            if time.monotonic() > deadline:
                sys.exit(f"the page did not get so far: {script}")
            time.sleep(0.1)

    browser.get(address)
    wait("document.querySelectorAll('#found button').length > 0 && document.querySelectorAll('#ranking .item').length")
    for n, title in enumerate(titles, 1):
        browser.find_element("id", "words").send_keys(title)
        wait(f"document.querySelector('#found button')?.textContent === {json.dumps(title)}")
        browser.execute_script("document.querySelector('#found button').click()")
        wait(f"document.querySelectorAll('#history li').length === {n}")
    browser.execute_script("document.querySelector('#examples button')?.click()")
    browser.execute_script(
        "const slider = document.querySelector('#diversity');"
        "if (slider.checkVisibility()) { slider.value = arguments[0]; slider.dispatchEvent(new Event('input')); }",
        DIVERSITY,
    )
    time.sleep(1)  # the page asks a quarter of a second after the last change
    wait("document.querySelectorAll('#ranking .item').length > 0")
    browser.execute_script("document.querySelectorAll('#ranking .item')[1].click()")
    wait("document.querySelector('.why')")
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")


def main(arguments: list[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--title", action="append", help="of the history, as the catalogue has it; can be repeated")
    parser.add_argument("--out", type=Path, default=HERE / "page.png")
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    chosen = parser.parse_args(arguments)
    titles = chosen.title or ["Star Wars (1977)", "Blade Runner (1982)", "Alien (1979)"]
    with serving(chosen.bundle) as address, browsing(chosen.width, chosen.height, chosen.scheme) as browser:
        fill(browser, address, titles)
        browser.save_screenshot(str(chosen.out))


if __name__ == "__main__":
    main()
