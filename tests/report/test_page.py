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
    for text in ("variant", "trained parameters", "lr", "file, kB", "test accuracy, % [95 % interval]"):
        head = heads[texts.index(text)]
        number = browser.execute_script("return arguments[0].parentElement.cellIndex + 1", head)
        values = sorted(v for v in column(browser, number) if v)
        key = str if text == "variant" else float
        for turn in (True, False):
            head.click()
            got = column(browser, number)
            assert got == sorted((v for v in got if v), key=key, reverse=turn) + [v for v in got if not v]
            assert sorted(v for v in got if v) == values
            state = head.find_element("xpath", "..").get_attribute("aria-sort")
            assert state == ("descending" if turn else "ascending")
    assert len(first.find_elements("css selector", "th[aria-sort]")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_it_can_be_read_on_any_screen(browser: Any, page: Path, width: int, scheme: str) -> None:
    """Contrast at least 4.5:1 (WCAG AA); every variant named in the plot, no label on another or cut off."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    ground = colour(browser, "body", "backgroundColor")
    assert (sum(ground) < 300) == (scheme == "dark")
    for selector, name in (
        ("td", "color"),
        ("a", "color"),
        ("svg text", "fill"),
        ("svg .tick", "fill"),
        (".notes", "color"),
    ):
        assert contrast(colour(browser, selector, name), ground) >= 4.5, selector
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    named = [e.text for e in browser.find_elements("css selector", "#plot .name")]
    assert len(named) == len(factory.SKILLS) + 2
    assert [v for v in (*factory.SKILLS, "none", "full") if not any(v in name.split() for name in named)] == []
    labels, marks = boxes(browser, "#plot .name"), boxes(browser, "#plot .mark")
    ((left, top, right, bottom),) = boxes(browser, "#plot")
    for n, a in enumerate(labels):
        assert left <= a[0]
        assert a[2] <= right
        assert top - 1 <= a[1]
        assert a[3] <= bottom
        for b in labels[n + 1 :]:
            assert min(a[2], b[2]) - max(a[0], b[0]) < 1 or min(a[3], b[3]) - max(a[1], b[1]) < 3
    assert len(marks) == len(factory.SKILLS)
    assert len(browser.find_elements("css selector", "#curves svg")) in (1, 2)
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    if SCREENSHOTS:
        whole = browser.execute_script("return document.documentElement.scrollHeight")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen | {"height": whole})
        browser.save_screenshot(str(Path(SCREENSHOTS) / f"{width}-{scheme}.png"))


def test_axis_filters_and_published_results(browser: Any, page: Path) -> None:
    """Every axis shows the rows that have its figure, where the figure is; filters and data sets hide and add rows."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(page.as_uri())
    own = [p for p in browser.execute_script("return points") if p["set"] == 0 and not p["reference"]]
    for axis in browser.execute_script("return Object.keys(AXES)"):
        choose(browser, "axis", axis)
        drawn = places(browser)
        shown = sorted((p for p in own if p[axis] is not None), key=lambda p: p[axis])
        assert drawn.keys() == {p["name"] for p in shown}, axis
        across = [drawn[p["name"]][0] for p in shown]
        assert across == sorted(across)
        steps: list[dict[str, Any]] = []  # of the front, those larger than their interval
        for p in (p for p in shown if not any(beats(q, p, axis) for q in shown)):
            if not steps or p["low"] > steps[-1]["accuracy"]:
                steps.append(p)
        script = "return [...document.querySelectorAll('#answer strong')].map(e => e.textContent)"
        answer = browser.execute_script(script)  # at once: a late resize draws all of it anew
        assert answer == [p["name"] for p in steps[::-1][:6]], axis
    one, two, three = sorted(own, key=lambda p: p["accuracy"])[::3]
    high = {p["name"]: drawn[p["name"]][1] for p in (one, two, three)}
    share = (high[two["name"]] - high[one["name"]]) / (high[three["name"]] - high[one["name"]])
    assert share == pytest.approx((two["accuracy"] - one["accuracy"]) / (three["accuracy"] - one["accuracy"]), abs=0.02)

    choose(browser, "axis", "params")
    choose(browser, "family", "gains")
    gains = {"ia3", "antipasto"}
    assert places(browser).keys() == gains
    rows_ = browser.find_elements("css selector", "section:first-of-type tbody tr[data-id]")
    assert {row.find_element("css selector", "td").text.split(" (1 ")[0] for row in rows_ if row.is_displayed()} == {
        *gains, "none", "full",
    }  # fmt: skip
    choose(browser, "family", "")
    ticks = browser.find_elements("css selector", "#sets input")
    ticks[-1].click()
    assert len(boxes(browser, "#plot .mark")) == len(own) + 62  # PEFT's 63, of which full fine-tuning is a line
    assert "published by others and not run here" in browser.find_element("id", "caption").text
    ticks[0].click()
    assert len(places(browser)) == 62


def test_a_variant_without_an_accuracy_is_a_row_and_no_mark(browser: Any, tmp_path: Path) -> None:
    """All of its runs failed. The other variant's mark is drawn, and no script stops."""
    records = [factory.record("lora"), factory.record("lora", lr=0.01), factory.record("hra", status="failed")]
    page = tmp_path / "index.html"
    page.write_text(files(rows(records), records, [factory.write(tmp_path / "published", *records)])["index.html"])
    browser.get(page.as_uri())
    assert list(places(browser)) == ["lora"]
    names = [
        e.text for e in browser.find_elements("css selector", "section:first-of-type tbody tr[data-id] td:first-child")
    ]
    assert any(name.startswith("hra") for name in names)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_quantization_brings_its_table(browser: Any, tmp_path: Path) -> None:
    """Its rows stand in a table of their own, which is not shown at first."""
    records = [factory.record(v, 0, 0.01, quantization=q) for v in ("lora", "hra") for q in ("none", "4bit")]
    (tmp_path / "index.html").write_text(files(rows(records), records, [])["index.html"])
    browser.get((tmp_path / "index.html").as_uri())
    assert places(browser).keys() == {"lora", "hra"}
    choose(browser, "quantization", "4bit")
    assert places(browser).keys() == {"lora 4bit", "hra 4bit"}
    tables = browser.find_elements("css selector", "section h2")
    assert "Embedded benchmark: 4bit base" in [h.text for h in tables if h.is_displayed()]


def test_a_click_shows_the_curves(browser: Any, page: Path) -> None:
    """Learning rates beside the baseline's, and the loss relative to the baseline's; small ones in each row."""
    browser.get(page.as_uri())
    button = browser.find_element("css selector", 'tr[data-id*="__hra__"] td button')
    browser.execute_script("arguments[0].click()", button)
    assert browser.find_element("id", "chosen").text.startswith("hra: ")
    charts = browser.find_elements("css selector", "#curves svg")
    assert [len(chart.find_elements("css selector", ".curve")) for chart in charts] == [2, 2]
    assert len(charts[0].find_elements("css selector", ".ring")) == 1
    assert browser.execute_script("return lossBeside(selected).every(p => p[1] === 0)")  # made-up losses are all alike
    assert browser.execute_script("return selected.rates.map(r => r[2])") == [False, True, False]


def boxes(browser: Any, selector: str) -> list[list[float]]:
    """Left, top, right, bottom of every such element."""
    code = """return [...document.querySelectorAll(arguments[0])].map(e => {
        const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })"""
    found: list[list[float]] = browser.execute_script(code, selector)
    return found


def beats(q: Any, p: Any, axis: str) -> bool:
    better = q["accuracy"] > p["accuracy"] or q[axis] < p[axis]
    return bool(q[axis] <= p[axis] and q["accuracy"] >= p["accuracy"] and better)


def choose(browser: Any, name: str, value: str) -> None:
    code = """const e = document.getElementById(arguments[0]);
        e.value = arguments[1]; e.dispatchEvent(new Event('change', {bubbles: true}))"""
    browser.execute_script(code, name, value)


def places(browser: Any) -> dict[str, tuple[float, float]]:
    """Name → pixels of every mark in the plot."""
    code = "return [...document.querySelectorAll('#plot .mark')].map(e => [e.textContent, e.getAttribute('transform')])"
    found = {}
    for text, transform in browser.execute_script(code):
        x, y = transform.removeprefix("translate(").removesuffix(")").split()
        found[text.partition(": ")[0]] = (float(x), float(y))
    return found


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
