"""The report's page as a person sees it: in Chromium, on a phone and on a desk, in light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jetmae.report import figure_style
from jetmae.report.page import write_report
from tests.unit.chromium import Chromium, chromium
from tests.unit.report_runs import make_study

WINDOWS = [(390, False), (390, True), (1280, False), (1280, True)]

# Text must stand out from what is behind it: WCAG 2.1 asks for a contrast of 4.5, of 3 for large text.
POOR_CONTRAST = """
(() => {
    const channels = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = channels(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const element of document.querySelectorAll("body *")) {
        const words = [...element.childNodes].filter(node => node.nodeType === 3 && node.textContent.trim());
        if (!words.length) continue;
        const style = getComputedStyle(element);
        const [one, other] = [light(channels(style.color)), light(behind(element))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
        if (contrast < needed) poor.push(`${element.tagName} ${contrast.toFixed(2)} ${words[0].textContent.trim()}`);
    }
    return poor;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every chapter that a report can have."""
    root = tmp_path_factory.mktemp("runs")
    folders = make_study(root, seeds=1, label_counts=(100, 1000), splits=("test",), masks=("groups",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_style, "PIXELS_PER_INCH", 40)
        return write_report(folders, tmp_path_factory.mktemp("report"), "Top against QCD")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(params=WINDOWS, ids=lambda window: f"{window[0]}-{'dark' if window[1] else 'light'}")
def shown(request: pytest.FixtureRequest, browser: Chromium, page: Path) -> Chromium:
    width, dark = request.param
    browser.open(page, width=width, dark=dark)
    return browser


def test_nothing_is_asked_of_a_network_and_nothing_complains(shown: Chromium) -> None:
    asked = [e["params"]["request"]["url"] for e in shown.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in asked} == {"file", "data"}
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in shown.events if event["method"] in complaints] == []


def test_every_picture_is_loaded_and_described(shown: Chromium) -> None:
    pictures = shown.evaluate(
        "[...document.images].map(image => [image.complete && image.naturalWidth > 0, image.alt.trim().length])"
    )
    assert len(pictures) == 17
    assert all(loaded and words > 10 for loaded, words in pictures)
    texts = shown.evaluate("[...document.images].map(image => image.alt)")
    assert len(set(texts)) == len(texts)


def test_the_page_fits_into_the_window(shown: Chromium) -> None:
    """Wide tables scroll by themselves; the page does not."""
    width, window = shown.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= window
    too_wide = "[...document.images].filter(i => i.getBoundingClientRect().right > window.innerWidth).length"
    assert shown.evaluate(too_wide) == 0


def test_words_stand_out_from_what_is_behind_them(shown: Chromium) -> None:
    shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert shown.evaluate(POOR_CONTRAST) == []


def test_dark_and_light_differ(browser: Chromium, page: Path) -> None:
    colours = []
    for dark in (False, True):
        browser.open(page, width=1280, dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def test_contrast_and_width_would_be_found(browser: Chromium, page: Path) -> None:
    """The checks above can fail."""
    browser.open(page, width=390, dark=False)
    browser.evaluate("document.querySelector('h1').style.color = '#ddd'")
    assert any(text.startswith("H1") for text in browser.evaluate(POOR_CONTRAST))
    browser.evaluate("document.querySelector('h1').style.width = '900px'")
    assert browser.evaluate("document.documentElement.scrollWidth > window.innerWidth")
