"""The page in a headless Chromium, from a file and without a network: it draws, fits a phone, asks for nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from testbed.page import page as module  # noqa: E402
from tests import pages  # noqa: E402
from tests.pages import COMPUTE_S, SENT_BYTES, Made, made  # noqa: E402
from tests.test_page import HOSTILE, REPLAYED  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1280)
VISIBLE = "[...document.querySelectorAll('.plot')].filter((box) => box.offsetParent !== null)"


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs, two of them replayed, at two rates, with a label that would be a script."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        for table in (COMPUTE_S, SENT_BYTES, pages.COSINE):
            patch.setitem(table, HOSTILE, table["astra G=1"])
        labels = ("single", "sequence", "astra G=16", HOSTILE)
        what = Made(labels=labels, weights="random")
        runs = [
            made(folder / f"{index}-{rate.split()[0]}", replace(what, rate=rate, manifest=facts))
            for index, facts in enumerate((REPLAYED, {})) for rate in pages.RATES
        ]  # fmt: skip
    module.report(runs, folder / "page.html", None)
    return folder / "page.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_it_draws_and_fits_without_a_word_or_a_request(
    browser: "playwright.Browser", report: Path, width: int, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    page = context.new_page()
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.wait_for_function(f"{VISIBLE}.every((box) => box.querySelector('.main-svg'))")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.evaluate(f"""{VISIBLE}.map((box) => {{
        const drawn = box.querySelector('.main-svg').getBoundingClientRect();
        return [box.id || box.dataset.plot, drawn.width, drawn.height, box.querySelectorAll('.point').length];
    }})""")
    assert len(sizes) >= 10
    assert all(0 < across <= width and down > 0 and marks for _, across, down, marks in sizes), sizes
    page.screenshot(path=tmp_path / f"page-{width}.png", full_page=True)
    assert [word for word in said if not word.startswith("log")] == []
    assert [url for url in asked if not url.startswith((report.as_uri(), "data:", "blob:"))] == []
    context.close()


def test_selects_change_what_is_shown_and_print_fits_the_paper(browser: "playwright.Browser", report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector("#timeline-plot .point")
    for index in (0, 2):  # requests are listed with their number in front: the bars are those of that one
        page.select_option("#timeline-request", index=index)
        number = int(page.locator("#timeline-request option").nth(index).inner_text().split()[0])
        drawn = page.evaluate("document.getElementById('timeline-plot').data.flatMap((trace) => trace.x)")
        took_s = pages.latency_s(Made(), "sequence", number)
        assert len(drawn) == 2 * (4 * pages.LAYERS + 2) and sum(drawn) == pytest.approx(2e3 * took_s, abs=0.1)
    page.select_option("#timeline-rows", index=1)
    ticks = page.locator("#timeline-plot .ytick").all_text_contents()
    assert ticks == [f"{host} {row}" for host in ("h1", "h2") for row in ("ends", "layer 0", "layer 1", "layer 2")]
    title = page.get_attribute("#timeline-plot", "aria-label")
    page.select_option("#timeline-entry", label=f"B · {HOSTILE}")
    assert page.get_attribute("#timeline-plot", "aria-label") not in (None, title)
    page.select_option("#latency select", index=1)
    shown = page.locator("#fidelity select").input_value(), page.locator("[data-plot=bytes-1]").is_visible()
    assert shown == ("1", True) and not page.locator("[data-plot=bytes-0]").is_visible()
    page.wait_for_selector("[data-plot=bytes-1] .point", state="attached")
    assert page.locator("[data-plot=latency-1] .ytick").last.text_content() == HOSTILE
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = page.evaluate(f"{VISIBLE}.map((box) => box.querySelector('.main-svg').getBoundingClientRect().width)")
    assert set(widths) == {640}  # as wide as a sheet of paper
    page.close()
