"""`serve` as a process: one clear line when it cannot, reload on SIGHUP, a graceful end, and its page in a browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle

PROGRAM = Path(sys.executable).parent / "delrec-lite"
MARKUP = "<img src=x onerror=document.title='broken'> & Sons"


class Served:
    """A server on a free port, over a copy of a bundle that a test may spoil."""

    def __init__(self, folder, *options, **environment):
        self.bundle = tiny_bundle(folder, titles=(*TITLES[:-1], MARKUP)).bundle.folder
        self.log = folder / "log"
        command = [PROGRAM, "serve", self.bundle, "--port", "0", "--threads", "1", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, **environment})
        line = self.wait_for("address")
        self.address = json.loads(line)["address"]

    def wait_for(self, words):
        for _ in range(400):
            for line in self.log.read_text().splitlines():
                if words in line:
                    return line
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{words} not in {self.log.read_text()}")

    def post(self, body):
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/v1/recommend", data, kind)
        return json.loads(urllib.request.urlopen(request, timeout=30).read())


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


def test_a_precision_that_the_bundle_lacks_is_one_line(tiny_bundle):
    done = subprocess.run(
        [PROGRAM, "serve", tiny_bundle, "--port", "0", "--quant", "q8_0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no model of the precision 'q8_0'" in done.stderr
    assert "it holds f16" in done.stderr


def test_a_port_that_is_taken_or_a_bundle_that_is_not_is_one_line(tmp_path, tiny_bundle):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [PROGRAM, "serve", tiny_bundle, "--port", port], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    done = subprocess.run([PROGRAM, "serve", tmp_path, "--port", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [PROGRAM, "serve", tiny_bundle, "--api-key-env", "NO_SUCH"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "NO_SUCH" in done.stderr) == (2, True)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_reload_takes_what_verifies_and_refuses_what_does_not(served, tmp_path):
    before = served.post({"history": TITLES[:2]})["items"]
    model = next(served.bundle.glob("*.gguf"))
    whole = model.read_bytes()
    model.with_suffix(".new").write_bytes(whole[:-1] + b"x")
    model.with_suffix(".new").replace(model)
    served.process.send_signal(signal.SIGHUP)
    assert "sha256" in served.wait_for("refused")
    assert served.post({"history": TITLES[:2]})["items"] == before
    other = tiny_bundle(tmp_path / "o", titles=(*TITLES[:-1], MARKUP), seed=5, name="tiny").bundle.folder
    shutil.rmtree(served.bundle)
    other.rename(served.bundle)
    served.process.send_signal(signal.SIGHUP)
    served.wait_for('"reload": "done"')
    after = served.post({"history": TITLES[:2]})["items"]
    assert after != before
    assert [i["title"] for i in after] == [
        i.title for i in Recommender.load(served.bundle, threads=1).recommend(TITLES[:2]).items
    ]


def test_it_ends_when_told_and_logs_no_history(served):
    served.post({"history": TITLES[:2]})
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) in {0, -signal.SIGTERM}
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert lines[-1]["path"] == "/v1/recommend"
    assert TITLES[0] not in served.log.read_text()
    with pytest.raises(urllib.error.URLError):
        served.post({"history": TITLES[:2]})


@pytest.fixture
def browser():
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here: make browser installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    made = webdriver.Chrome(options, webdriver.ChromeService(driver))
    made.set_window_size(1100, 900)
    yield made
    made.quit()


def test_the_page_in_a_browser(served, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 30)

    def texts(selector):
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return browser.execute_script(script, selector)

    def click(selector, n=0):
        browser.execute_script("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, n)

    names = "#ranking .item > span:nth-child(2)"
    browser.get(served.address)
    wait.until(lambda _: len(texts("#found button")) == 6)
    words = browser.find_element(By.ID, "words")
    words.send_keys("red rivr")
    wait.until(lambda _: texts("#found button")[0] == "Red River (1950)")
    words.send_keys(Keys.ENTER)  # by keyboard alone
    wait.until(lambda _: len(texts(names)) == 10)
    first = texts(names)
    assert first == [i["title"] for i in served.post({"history": ["Red River (1950)"]})["items"]]
    assert "tokens computed" in texts("#time")[0]
    words.send_keys("img onerror")
    wait.until(lambda _: MARKUP in texts("#found button"))
    click("#found button", texts("#found button").index(MARKUP))
    wait.until(lambda _: len(texts("#history li")) == 2)
    wait.until(lambda _: texts(names) != first)
    assert browser.title == "delrec-lite"
    assert not texts("img")
    click("#ranking .item")
    wait.until(lambda _: len(texts(".why li")) == 3)  # two titles and what the figures mean
    browser.set_window_size(380, 800)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    click("#history button")
    wait.until(lambda _: len(texts("#history li")) == 1)
    assert texts("#error") == [""]


def test_clients_at_once_get_the_answers_of_one(served):
    from delrec_lite.bench.load import load

    histories = [TITLES[n : n + 3] for n in range(8)]
    found = load(served.address, histories, clients=6, seconds=1.5, pid=served.process.pid)
    assert found.differing == 0
    assert set(found.statuses) == {"200"}
    assert found.statuses["200"] > 6
    assert found.rss_after < found.rss_before + 50_000_000
    with pytest.raises(ValueError, match="this machine"):
        load("http://example.org", histories, 1, 1.0)
