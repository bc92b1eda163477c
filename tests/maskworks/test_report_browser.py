"""The reports in a real browser: controls work, the console stays silent, and nothing is asked of any network."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.maskworks.report_examples import HOSTILE, prediction_report, training_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_PAGE = "not an origin"  # who asks, in Chromium's log, where the browser does so itself
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@dataclass
class Seen:
    """What went on besides what the page shows."""

    console: list[str]
    requests: list[str]  # of the page; the browser's own are left out


NOTHING = Seen([], [])


def browse(path: Path, script: str = "", address: str = "") -> tuple[str, Seen]:
    """Use the page in Chromium with a script; what it put into #answer, and what else was seen."""
    tried, log = path.with_name("tried.html"), path.with_name("network.json")
    ending = "<pre id=answer></pre><script>const tell = value => document.getElementById('answer').textContent = "
    ending += f"JSON.stringify(value); {script}</script></body>"
    tried.write_text(path.read_text(encoding="utf-8").replace("</body>", ending), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *flags, profile, f"{tried.as_uri()}{address}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the page's script did not get to its end"
    assert "<title>broken" not in done.stdout
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return html.unescape(found[1]), Seen(console, requests(log))


def requests(log: Path) -> list[str]:
    """The addresses that pages asked for over a network."""
    entries = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = (
        entry for entry in entries if "url" in entry and entry.get("initiator", "not an origin") != "not an origin"
    )
    return sorted({entry["url"] for entry in asked if not entry["url"].startswith(("data:", "file:"))})


@needs_chromium
def test_a_request_and_an_error_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><body><img src='http://example.org/picture.png'></body></html>")
    _, seen = browse(page, "tell(1); missing();")
    assert seen.requests == ["http://example.org/picture.png"]
    assert any("missing is not defined" in line for line in seen.console)
    report = prediction_report(tmp_path)
    _, seen = browse(report, "fetch('http://example.org/data').catch(() => 0); tell(1);")
    assert seen.requests == []  # the page forbids it to itself,
    assert any("Content Security Policy" in line for line in seen.console)  # and says so


@needs_chromium
def test_the_training_report_works_in_a_browser(tmp_path: Path) -> None:
    answer, seen = browse(
        training_report(tmp_path),
        """
        const paths = () => all(".chart").map(card => card.querySelectorAll("svg path").length);
        const first = paths();
        const log = document.getElementById("logarithmic");
        log.checked = true;
        log.dispatchEvent(new Event("input"));
        const [byName, byScore] = all(".classes th button");
        const order = () => all(".classes tbody th").map(cell => cell.textContent);
        const orders = [order()];
        for (const button of [byScore, byName, byName]) { button.click(); orders.push(order()); }
        curve.value = "1";
        curve.dispatchEvent(new Event("input"));
        const svg = document.querySelector("[data-chart='curve loss'] svg");
        svg.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
        const value = document.querySelector("[data-chart='curve loss'] output").textContent;
        document.querySelector(".picture").click();
        tell({ first, second: paths(), orders, value, open: document.querySelector("dialog").open });
        """,
    )
    told = json.loads(answer)
    assert seen == NOTHING
    # score: AP and AP50; loss and speed: raw and smooth; lr: one; precision: the mean
    assert told["first"] == [2, 2, 1, 2, 1]
    assert told["second"] == [2, 2, 1, 2, 2]
    assert told["value"].startswith("step 1: 2")
    assert told["open"] is True
    assert told["orders"] == [
        [HOSTILE, "cat", "三角"],  # by score, the best first; then the other way round
        ["三角", "cat", HOSTILE],
        [HOSTILE, "cat", "三角"],  # by name
        ["三角", "cat", HOSTILE],
    ]


@needs_chromium
def test_the_filters_of_the_gallery_work_in_a_browser(tmp_path: Path) -> None:
    path = prediction_report(tmp_path)
    show = "tell([all('.gallery figure:not([hidden]) b').map(b => b.textContent), found.textContent]);"
    answer, seen = browse(path, show)
    assert seen == NOTHING
    assert json.loads(answer) == [["a.jpg", "b.jpg", HOSTILE, "empty.jpg"], "4 of 4 images, 4 objects"]
    choose = "filter.elements.label.value = '0'; filter.elements.score.value = 0.35; "
    choose += "filter.dispatchEvent(new Event('input'));"
    answer, seen = browse(path, choose + show)
    assert seen == NOTHING
    assert json.loads(answer) == [["a.jpg"], "1 of 4 images, 2 objects"]
    answer, _ = browse(path, show, "#score=0.5&order=unsure")
    assert json.loads(answer) == [["b.jpg", "a.jpg"], "2 of 4 images, 2 objects"]
