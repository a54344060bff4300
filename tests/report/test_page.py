"""The page of a real small grid in a real browser: drawn, sortable, quiet, self-contained, and readable on a telephone."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import sentiment_rows, splits

import mtl
from mtl.files import read_json
from mtl.report.page import mean_curve
from mtl.report.write import read_folder, write_all

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
#: Set where the browser must be there, so that the test cannot be left out unseen.
MUST = bool(os.environ.get("MTL_BROWSER"))
needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER) and not MUST, reason="needs chromium and chromedriver")
NAUGHTY = "</script><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def grid(encoder_folder, tmp_path_factory):
    """Two strategies and the untouched encoder, three seeds, two shots; one cell has failed with a naughty text."""
    folder = tmp_path_factory.mktemp("page")
    rows = sentiment_rows(48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE", str(folder / "cache"))
        experiment = mtl.Experiment.of(
            name="page",
            encoder={"name": str(encoder_folder), "max_length": 32},
            plugins=["mtl_plugins.affinity"],
            tasks=[
                {"name": "mood", "kind": "classification", "data": splits(rows)},
                {"name": "temper", "kind": "classification", "data": splits(rows[:32])},
                {"name": "target", "kind": "classification", "data": splits(sentiment_rows(40))},
            ],
            sources=["mood", "temper"],
            targets={
                "tasks": ["target"],
                "shots": [1, 2],
                "protocol": {"name": "domain", "draws": 3},
                "overlap": "allow",
                "baselines": [],
            },
            budget={"epochs": 1},
            batch={"size": 8},
            evaluation={"times": 2},
            output=str(folder / "runs"),
        )
        finished = experiment.over({"strategy": ["none", "single", "joint"], "seed": [0, 1, 2]}).compare(jobs=1)
        kept = read_json(finished.folder / "comparison.json", mtl.MTLError)
        lost = finished.folder / kept["cells"][-1]["folder"] / "results.json"
        lost.unlink()
        kept["cells"][-1]["error"] = NAUGHTY
        (finished.folder / "comparison.json").write_text(json.dumps(kept))
        write_all(finished.folder, *read_folder(finished.folder))
    return finished.folder


@pytest.fixture(scope="module")
def page(grid):
    return grid / "report.html"


@pytest.fixture
def browser(page):
    """Chromium without a window, with the page open and its charts drawn."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1100,1400"):
        options.add_argument(argument)
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, page, *, width=1100, dark=False):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [media(dark)]})
    metrics = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    until = time.monotonic() + 60
    while not (state := browser.execute_script("return document.body.dataset.charts")) and time.monotonic() < until:
        time.sleep(0.1)
    assert state == "drawn"


def media(dark):
    return {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}


def keep_picture(browser, name, tmp_path):
    """Screenshots are kept where MTL_SCREENSHOTS says."""
    folder = Path(os.environ.get("MTL_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(folder / f"{name}.png"))


@needs_browser
def test_every_chart_is_drawn_and_nothing_is_logged_or_fetched(browser, page, tmp_path):
    show(browser, page)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(each => each.querySelectorAll('svg').length)"
    )
    assert len(boxes) >= 8
    assert set(boxes) == {1}
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert browser.title == "page"  # the error's script has not run
    keep_picture(browser, "light", tmp_path)


@needs_browser
def test_tables_are_sorted_by_click_and_by_key(browser, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    table = browser.find_element(By.CSS_SELECTOR, "#tasks-test-split-details table")

    def gains():
        found = browser.execute_script("return [...arguments[0].tBodies[0].rows].map(row => row.cells[2].textContent)", table)
        return [float(text.replace("−", "-")) for text in found]

    before = gains()
    assert len(before) == 2
    button = table.find_element(By.CSS_SELECTOR, "thead th:nth-child(3) button")
    button.click()
    assert gains() == sorted(before)
    assert table.find_element(By.CSS_SELECTOR, "thead th:nth-child(3)").get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert gains() == sorted(before, reverse=True)


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_at_375_pixels_nothing_is_wider_than_the_screen(browser, page, tmp_path, dark):
    show(browser, page, width=375, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")
    keep_picture(browser, f"telephone-{'dark' if dark else 'light'}", tmp_path)


@needs_browser
def test_the_page_can_be_walked_by_keyboard_and_printed(browser, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the verdict"
    unreachable = browser.execute_script(
        "return [...document.querySelectorAll('.scroll, thead button, summary, nav a')].filter(each => each.tabIndex < 0).length"
    )
    assert unreachable == 0
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(pdf) > 20_000


def test_every_chart_has_its_numbers_in_a_table(page):
    html = page.read_text(encoding="utf-8")
    assert html.count('class="chart"') == html.count("<summary>The numbers</summary>") >= 8
    assert len(html) < 5_000_000
    assert NAUGHTY not in html
    assert not re.search(r'(src|href)="https?:', html)


def test_the_page_says_what_was_asked_and_what_is_missing(page):
    html = page.read_text(encoding="utf-8")
    assert "Was it worth it? 8 of 9 cells over strategy (3), seed (3)." in html
    assert "Cells without results: 1 of 9" in html
    assert "(2 of 3)" in html
    assert "A suggestion" in html
    assert "Cosine of the tasks" in html
    assert "Confusion: target, none" in html
    assert "Targets with the most shots, over all episodes." in html
    for heading in ("Confusion and ROC", "Trainings", "Budgets and costs", "How this was made"):
        assert heading in html


def test_papers_and_programs_get_the_same_tables(grid):
    latex = (grid / "report" / "tables.tex").read_text(encoding="utf-8")
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") >= 6
    csv = (grid / "report" / "tasks-test-split.csv").read_text(encoding="utf-8").splitlines()
    assert csv[0] == "question,metric,single,joint"
    found = json.loads((grid / "report" / "findings.json").read_text(encoding="utf-8"))
    assert [each["title"] for each in found["findings"]] == ["Tasks, test split", "Transfer to held-out targets"]
    assert found["missing"][0]["why"] == NAUGHTY
    assert found["findings"][1]["baseline"] == "none"
    results = (grid / "results.md").read_text(encoding="utf-8")
    assert "| joint (2 of 3) |" in results.partition("## Tasks, test split")[2].partition("##")[0]  # the plain table says it too
    assert found["verdicts"][0] in results


def test_the_mean_of_curves_is_taken_at_each_rate_of_false_positives():
    right, chance = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]
    mean = dict(mean_curve([right, chance])[1:])
    assert mean[0.0] == 0.5
    assert mean[0.5] == 0.75
    assert mean[1.0] == 1.0
    assert mean_curve([right, chance])[0] == (0.0, 0.0)
