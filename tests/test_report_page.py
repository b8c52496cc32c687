"""The report in a real browser: three widths, light and dark; nothing is asked for, nothing sticks out, tables sort."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright")

from playwright import sync_api

from cleanweb import report
from cleanweb.audit import Answer, answers, draw

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 820, 1280)  # a phone, a tablet, a screen

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]


@pytest.fixture(scope="module")
def page_of(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it, an audit, too: its address."""
    own = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(run, own)
    drawn = draw.draw(own, 20)
    seen = {key: Answer("class", key.split("/")[0]) for key in drawn.rows["sample_id"]}
    answers.answer(own, drawn.audit_id, seen)
    return report.write(own).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_asks_for_nothing(page_of: str, browser: sync_api.Browser, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(page_of)
    assert set(asked) <= {"file", "data"}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for image in page.locator("figure img").all():  # without scrolling there: they are printed, too
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    cut = page.evaluate("""[...document.querySelectorAll(".flow span")].filter((s) =>
        s.firstChild.getBoundingClientRect().right > s.getBoundingClientRect().right + 1).map((s) => s.textContent)""")
    assert cut == []
    text, ground = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (_light(ground) > _light(text)) == (scheme == "light")
    assert wrong == []
    context.close()


def _light(colour: str) -> int:
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


def test_its_tables_sort_by_keyboard(page_of: str, browser: sync_api.Browser) -> None:
    page = browser.new_page()
    page.goto(page_of)
    for region in ("Classes", "Transition matrix", "Relabelings"):
        table = page.get_by_role("region", name=region)
        if not table.count():
            continue  # nothing was relabeled
        header = table.get_by_role("button").last
        header.focus()
        found = []
        for _ in range(2):
            page.keyboard.press("Enter")
            way = header.locator("xpath=ancestor::th").get_attribute("aria-sort")
            numbers = table.locator("tbody tr").evaluate_all(
                "rows => rows.map(r => Number((r.cells[r.cells.length - 1].dataset.sort ?? "
                "r.cells[r.cells.length - 1].textContent).replaceAll(',', '')))"
            )
            assert numbers == sorted(numbers, reverse=way == "descending")
            found.append(way)
        assert found == ["descending", "ascending"]
    page.close()


def test_a_screen_reader_finds_its_way(page_of: str, browser: sync_api.Browser) -> None:
    page = browser.new_page()
    page.goto(page_of)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the outcome"
    for name in ("Outcome", "How far can it be trusted?", "Classes", "Confusions", "Probabilities", "Training",
                 "Pictures", "Broken files", "Settings and versions", "What to do next"):  # fmt: skip
        assert page.get_by_role("heading", name=name, exact=True, level=2).count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("svg:not([aria-hidden]):not([aria-label])").count() == 0
    assert page.locator(".threshold").count() >= 1
    page.close()
