"""The page in a real browser (Debian's chromium): no console error, a click sorts, light and dark, no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.build import files
from harness.report.table import rows
from tests import factory

pytestmark = pytest.mark.browser
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1300,1000")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder: keep what the browser showed


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless chromium with a profile of its own. Skips where there is none."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not program:
        pytest.skip("no chromium here: apt-get install -y chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of a whole study, in a folder without anything else."""
    folder = tmp_path_factory.mktemp("page")
    records = factory.study(seeds=3, questions=120)
    published = factory.write(folder / "published", *records)
    made = files(rows(records), records, [published])
    (folder / "alone").mkdir()
    (folder / "alone" / "index.html").write_text(made["index.html"])
    return folder / "alone" / "index.html"


def column(browser: Any, number: int) -> list[str]:
    cells = f"document.querySelectorAll('table')[0].querySelectorAll('tbody td:nth-child({number})')"
    found: list[str] = browser.execute_script(f"return [...{cells}].map(c => c.dataset.key)")
    return found


def test_a_click_sorts(browser: Any, page: Path) -> None:
    """Numbers as numbers, texts as texts; a second click turns round; what is missing stays last."""
    browser.get(page.as_uri())
    first = browser.find_element("css selector", "table")
    heads = first.find_elements("css selector", "th button")
    texts = [h.text for h in heads]
    assert texts[0] == "variant"
    for number, text in enumerate(texts, start=1):
        if text not in ("variant", "trained parameters", "lr", "tokens/s", "test accuracy, % [95 % interval]"):
            continue
        values = sorted(v for v in column(browser, number) if v)
        key = str if text == "variant" else float
        for turn in (True, False):
            heads[number - 1].click()
            got = column(browser, number)
            assert got == sorted((v for v in got if v), key=key, reverse=turn) + [v for v in got if not v]
            assert sorted(v for v in got if v) == values
            state = heads[number - 1].find_element("xpath", "..").get_attribute("aria-sort")
            assert state == ("descending" if turn else "ascending")
    assert len(first.find_elements("css selector", "th[aria-sort]")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_either_ground(browser: Any, page: Path, scheme: str) -> None:
    """Contrast of text in tables and figures at least 4.5:1 (WCAG AA), all figures drawn, none too wide."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    ground = colour(browser, "body", "backgroundColor")
    assert (sum(ground) < 300) == (scheme == "dark")
    for selector, name in (("td", "color"), ("a", "color"), ("svg text", "fill"), (".notes", "color")):
        assert contrast(colour(browser, selector, name), ground) >= 4.5, selector
    drawn = browser.execute_script("return [...document.querySelectorAll('svg')].map(s => s.getBBox().width)")
    assert len(drawn) == 4
    assert min(drawn) > 300
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    if SCREENSHOTS:
        whole = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1300, whole + 150)
        browser.save_screenshot(str(Path(SCREENSHOTS) / f"{scheme}.png"))
        browser.set_window_size(1300, 1000)


def test_it_says_nothing_on_the_console_and_asks_nobody(browser: Any, page: Path) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    browser.find_element("css selector", "th button").click()
    assert browser.get_log("browser") == []
    asked = [e["message"] for e in browser.get_log("performance") if "Network.requestWillBeSent" in e["message"]]
    assert [m for m in asked if '"url":"http' in m] == []
    text = page.read_text()
    assert not [w for w in ("<script src", '<link rel="stylesheet', "@import", "url(http") if w in text]


def test_texts_of_records_cannot_run_in_it(browser: Any, tmp_path: Path) -> None:
    """A record's names are shown as they are, whatever they hold."""
    evil = "<img src=x onerror=document.title='broken'>"
    records = [factory.record(evil.replace("/", ""), questions=60), factory.record(questions=60)]
    (tmp_path / "index.html").write_text(files(rows(records), records, [])["index.html"])
    browser.get((tmp_path / "index.html").as_uri())
    assert browser.title == "hookbench: results"
    assert evil in browser.find_element("css selector", "tbody").text


def colour(browser: Any, selector: str, name: str) -> tuple[float, ...]:
    code = f"return getComputedStyle(document.querySelector({selector!r}))[{name!r}]"
    text = browser.execute_script(code)
    return tuple(float(v) for v in text[text.index("(") + 1 : -1].split(",")[:3])


def contrast(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours."""

    def luminance(rgb: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)
