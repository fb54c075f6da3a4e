"""The page in Chromium: by keyboard, on a phone, in light and dark, with a server that knows every field too."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import pytest

from delrec_lite.server.api import make_api
from tests.serving import MARKUP, Served

CONTRAST = """
const [ink, sheet] = [["color", arguments[0]], ["backgroundColor", arguments[1]]].map(([what, where]) => {
  const parts = getComputedStyle(document.querySelector(where))[what].match(/\\d+/g).slice(0, 3).map(v => v / 255);
  const [r, g, b] = parts.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
});
return (Math.max(ink, sheet) + 0.05) / (Math.min(ink, sheet) + 0.05);
"""


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as server:
        yield server


def test_the_page_in_a_browser(served, browser):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 30, ignored_exceptions=(StaleElementReferenceException,))

    def texts(selector):
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return browser.execute_script(script, selector)

    def click(selector, n=0):
        browser.execute_script("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, n)

    names = "#ranking .item > span:nth-child(2)"
    browser.get(served.address)
    wait.until(lambda _: len(texts("#found button")) == 6)
    wait.until(lambda _: texts(names) == [i["title"] for i in served.post({"history": []})["items"]])
    assert browser.find_element(By.ID, "popular").is_displayed()
    words = browser.find_element(By.ID, "words")
    words.send_keys("red rivr")
    wait.until(lambda _: texts("#found button")[0] == "Red River (1950)")
    words.send_keys(Keys.ENTER)  # only the keyboard
    first = [i["title"] for i in served.post({"history": ["Red River (1950)"]})["items"]]
    wait.until(lambda _: texts(names) == first)
    assert not browser.find_element(By.ID, "popular").is_displayed()
    assert "1 token computed" in texts("#time")[0]
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
    browser.find_element(By.CSS_SELECTOR, "#history button").send_keys(Keys.ENTER)
    wait.until(lambda _: len(texts("#history li")) == 1)
    assert browser.switch_to.active_element.accessible_name == "Remove " + MARKUP  # the focus stays in the list
    assert texts("#error") == [""]
    backgrounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        backgrounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        # The contrast of the palest text (WCAG 2, level AA) and of the ranking (AAA).
        assert browser.execute_script(CONTRAST, "#time", "section") > 4.5
        assert browser.execute_script(CONTRAST, "#ranking .item", "section") > 7
    assert backgrounds[0] != backgrounds[1]


class EveryField:
    """A server whose document has every field that the page can show; its answers are the same for every request."""

    def __init__(self):
        document = make_api(MagicMock()).openapi()
        body = document["components"]["schemas"]["RecommendBody"]
        body["properties"] |= {"words": {}, "where": {}, "diversity": {}}
        document["paths"] |= {"/v1/catalog/availability": {}, "/v1/catalog/columns": {}}
        ranked = [{"rank": n, "id": f"i{n}", "title": f"Title {n}", "probability": 0.5 / n} for n in (1, 2)]
        phases = {"prefill": 12.3, "filter": 0.4, "sort": 0.01}
        recommended = {"items": ranked, "basis": "model", "milliseconds": phases, "tokens_computed": 1}
        columns = [
            {"name": "genre", "kind": "text", "values": {'say "hi"': 9, "rare": 1}},
            {"name": "or", "kind": "number", "lowest": 10, "highest": 20},
            {"name": "new", "kind": "truth", "true": 3},
            {"name": "made in", "kind": "list of texts", "values": {"Oslo": 2}},
            {"name": "empty", "kind": "text", "values": {}},
        ]
        self.gone, self.asked, self.refuse = [], [], False
        self.answers = {
            "/openapi.json": document,
            "/readyz": {"status": "ready", "bundle": "tiny", "teacher": "no"},
            "/v1/items": [],
            "/v1/recommend": {**recommended, "tokens_avoided": 5},
            "/v1/catalog/columns": columns,
        }
        page = resources.files("delrec_lite.server").joinpath("static/index.html").read_bytes()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = outer.answer(urlsplit(self.path).path, json.loads(body) if body else None)
                content = page if self.path == "/" else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if self.path == "/" else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path, body):
        if body is not None:
            self.asked.append((path, body))
        if path == "/v1/catalog/availability":
            changes = body or {}
            gone = [*self.gone, *changes.get("unavailable", [])]
            self.gone = [item for item in gone if item not in changes.get("available", [])]
            titles = [{"id": item[3:], "title": f"Title {item[4:]}"} for item in self.gone]
            return 200, {"unavailable": titles, "count": len(titles)}
        if self.refuse and "where" in (body or {}):
            return 400, {"error": "there is no column colour", "hint": "one of genre"}
        return 200, self.answers.get(path)

    def wishes(self):
        """What the last request for recommendations wished beside the history."""
        body = [body for path, body in self.asked if path == "/v1/recommend"][-1]
        return {name: body[name] for name in ("words", "where", "diversity") if name in body}


def test_the_page_shows_and_sends_what_the_server_knows(browser):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    server, wait = EveryField(), WebDriverWait(browser, 30, ignored_exceptions=(StaleElementReferenceException,))
    where, wish, slider = (
        lambda name=name: browser.find_element(By.ID, name) for name in ("where", "wish", "diversity")
    )

    def texts(selector):
        return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]

    browser.set_window_size(400, 900)
    browser.get(f"http://127.0.0.1:{server.http.server_port}")
    wait.until(lambda _: len(texts("#examples button")) == 4)
    where, wish, slider = (browser.find_element(By.ID, name) for name in ("where", "wish", "diversity"))
    expected = ['genre = "say \\"hi\\""', "`or` >= 15", "new", '`made in` has "Oslo"']
    assert texts("#examples button") == expected
    assert "prefill 12.3 ms · filter 0.4 ms" in texts("#phases")
    assert server.wishes() == {}
    for button in browser.find_elements(By.CSS_SELECTOR, "#examples button")[1:3]:
        button.send_keys(Keys.ENTER)
    wait.until(lambda _: server.wishes() == {"where": "(`or` >= 15) and new"})
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait.until(lambda _: server.wishes().get("diversity") == 0.1)
    assert texts("#diverse") == ["0.1"]
    wish.send_keys("space pirates")
    wait.until(lambda _: server.wishes().get("words") == "space pirates")
    server.refuse = True
    where.send_keys(" and colour")
    wait.until(lambda _: texts("#error") == ["there is no column colour (one of genre)"])
    assert where.get_attribute("aria-invalid") == "true"
    assert texts("#ranking li") == []
    server.refuse = False
    where.clear()
    where.send_keys("n")
    wait.until(lambda _: len(texts("#ranking .item")) == 2)
    assert (where.get_attribute("aria-invalid"), texts("#error")) == ("false", [""])
    off = browser.find_elements(By.CSS_SELECTOR, ".off")[1]
    assert off.accessible_name == "Not available: Title 2"
    off.send_keys(Keys.ENTER)
    wait.until(lambda _: texts("#gone span") == ["Title 2"])
    assert ("/v1/catalog/availability", {"unavailable": ["id:i2"]}) in server.asked
    browser.find_element(By.CSS_SELECTOR, "#gone button").send_keys(Keys.ENTER)
    wait.until(lambda _: texts("#gone span") == [] and browser.find_element(By.ID, "all-there").is_displayed())
    assert browser.switch_to.active_element.text == "Wishes"
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    server.http.shutdown()
