"""The review page in a real browser: keys, bulk, undo, several tabs, hostile text, a million rows."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra [review]")
pytest.importorskip("uvicorn", reason="needs the extra [review]")
pytest.importorskip("playwright", reason="needs playwright")

from playwright import sync_api

from cleanweb import manifest, reviews
from cleanweb.retagging import retag
from cleanweb.review import serve
from tests import millionrows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]

HOSTILE = [
    "<img src=x onerror=hacked()>.png", '"><script>hacked()</script>.png', "'-hacked()-'.png", "a&b=c?d#e.png",
    "javascript:hacked().png", "{{constructor.constructor('hacked()')()}}.png", "</title><svg onload=hacked()>.png",
    "%3Cscript%3Ehacked()%3C/script%3E.png", "a\u202egnp.exe.png", "𝔘𝔫𝔦😀 ünï.png", "a\x1b[31m\n.png",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def serving(monkeypatch) -> Iterator[Callable[[Path], str]]:
    """serving(run) → the address of its page, served in this process."""
    import uvicorn

    servers, threads = [], []
    monkeypatch.setattr(uvicorn.Server, "capture_signals", lambda self: servers.append(self) or _nothing())

    def start(run: Path) -> str:
        found, ready = [], threading.Event()
        told = lambda address: (found.append(address), ready.set())  # noqa: E731
        threads.append(threading.Thread(target=serve.serve, args=(run, "ada", 0, told)))
        threads[-1].start()
        assert ready.wait(20)
        return found[0]

    yield start
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join(20)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def opened(browser) -> Iterator[Callable]:
    """opened(address, **context) → the page; whatever goes wrong in it fails the test."""
    contexts, wrong = [], []

    def open_page(address: str, **options: object):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(
            (address.split("?", maxsplit=1)[0], "data:")) else None)  # fmt: skip
        page.goto(address)
        page.wait_for_selector(".card .caption")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def rows(run: Path, sql: str) -> list[tuple]:
    return list(manifest.query(run, sql)[1])


def eventually(check: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def in_order(run: Path) -> list[str]:
    """The samples as the page shows them at first."""
    return [key for (key,) in rows(run, "SELECT sample_id FROM images WHERE duplicate_of IS NULL "
                                        "ORDER BY confidence NULLS LAST, rowid")]  # fmt: skip


def decided(run: Path) -> dict[str, str | None]:
    return dict(rows(run, "SELECT sample_id, label FROM reviews WHERE undone_at IS NULL"))


def test_by_keyboard_alone(own, serving, opened):
    keys, page = in_order(own), opened(serving(own))
    old = dict(rows(own, "SELECT sample_id, final_label FROM images"))
    page.keyboard.press("a")  # accept, and on to the next
    page.keyboard.press("o")
    page.keyboard.press("r")
    page.keyboard.type("lu")  # blue
    page.keyboard.press("Enter")
    eventually(lambda: len(decided(own)) == 3)
    assert decided(own) == {keys[0]: old[keys[0]], keys[1]: None, keys[2]: "blue"}
    assert page.locator(".card.focus").get_attribute("data-place") == "3"
    eventually(lambda: page.locator(".card .mark.done").count() == 3)
    for _ in range(2):
        page.keyboard.press("u")
    eventually(lambda: len(decided(own)) == 1)
    page.reload()
    page.wait_for_selector(".card .caption")
    page.keyboard.press("Control+z")  # after a reload: this person's last action
    eventually(lambda: not decided(own))
    assert rows(own, "SELECT count(*) FROM reviews") == [(3,)]


def test_many_at_once_and_undone_at_once(own, serving, opened):
    keys, page = in_order(own), opened(serving(own))
    before = rows(own, "SELECT * FROM images ORDER BY rowid")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#selected").inner_text() == "5 pictures selected"
    page.keyboard.press("o")
    eventually(lambda: len(decided(own)) == 5)
    assert set(decided(own)) == set(keys[:5])
    page.get_by_role("button", name="Undo", exact=True).last.click()
    eventually(lambda: not decided(own))
    assert rows(own, "SELECT * FROM images ORDER BY rowid") == before


def test_filters_narrow_and_say_what_is_wrong(own, serving, opened):
    page = opened(serving(own))
    [(n,)] = rows(
        own, "SELECT count(*) FROM images WHERE verdict = 'clean' AND duplicate_of IS NULL AND path LIKE 'red%'"
    )
    page.locator("label.chip.clean").click()
    page.fill("#where", "path LIKE 'red%'")
    page.keyboard.press("Enter")
    eventually(lambda: page.evaluate(f"document.getElementById('count').textContent.startsWith('{n} picture')"))
    page.fill("#where", "nonsense")
    page.keyboard.press("Enter")
    eventually(lambda: page.evaluate("document.getElementById('where-error').textContent.includes('nonsense')"))
    page.fill("#where", "")
    page.keyboard.press("Enter")
    eventually(lambda: page.evaluate("!document.getElementById('where-error').textContent"))
    page.reload()  # the question is in the address
    page.wait_for_selector(".card .caption")
    assert page.locator(".card").count() == page.locator(".card.clean").count() > 0


def test_zoom_shows_and_decides(own, serving, opened):
    keys, page = in_order(own), opened(serving(own))
    page.keyboard.press("z")
    eventually(lambda: page.evaluate("document.querySelector('#zoom img')?.naturalWidth > 0"))
    assert page.locator("#zoom .path").inner_text() == keys[0]
    page.keyboard.press("o")
    eventually(lambda: set(decided(own)) == {keys[0]})
    assert page.locator("#zoom .path").inner_text() == keys[1]
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").is_visible()


def test_two_tabs_do_not_overwrite_each_other(own, serving, opened):
    address = serving(own)
    keys, one, other = in_order(own), opened(address), opened(address)
    one.keyboard.press("o")
    eventually(lambda: set(decided(own)) == {keys[0]})
    other.keyboard.press("r")
    other.keyboard.type("green")
    other.keyboard.press("Enter")
    other.wait_for_selector(".toast.bad")
    assert decided(own) == {keys[0]: None}
    assert other.locator("[data-place='0'].ood").count() == 1  # and is shown as the first tab left it
    two = opened(address)
    reviews.decide(own, [keys[1]], "ood", who="bob")
    two.wait_for_selector("[data-place='0'].ood", timeout=20_000)  # what others do appears by itself


def test_retag_meanwhile_is_noticed(own, serving, opened):
    page = opened(serving(own))
    page.keyboard.press("o")
    eventually(lambda: len(decided(own)) == 1)
    retag(own)
    page.wait_for_selector(".toast.news", timeout=10_000)
    page.keyboard.press("o")
    eventually(lambda: len(decided(own)) == 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_everything_is_in_reach(own, serving, opened, scheme):
    keys, page = (
        in_order(own),
        opened(serving(own), viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True),
    )
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
    )
    for button in page.locator("#actions button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 844
    page.locator(".card").nth(1).tap()
    page.get_by_role("button", name="None (OOD)").tap()
    eventually(lambda: set(decided(own)) == {keys[1]})


def test_it_is_said_what_everything_is(own, serving, opened):
    page = opened(serving(own))
    grid = page.get_by_role("listbox", name="Pictures")
    assert grid.get_attribute("aria-activedescendant") == page.locator(".card.focus").get_attribute("id")
    card = page.locator(".card").first
    assert card.get_attribute("role") == "option"
    assert int(card.get_attribute("aria-setsize")) == len(in_order(own))
    assert "given" in card.get_attribute("aria-label")
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select')].filter((e) => !(
        e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)""")
    assert unnamed == []
    page.keyboard.press("?")
    assert page.get_by_role("heading", name="Keys").is_visible()


def test_hostile_names_and_labels_are_inert(own, serving, opened):
    """Whatever text a crawl holds is shown as text: no element of it is made, nothing of it is run or asked for."""
    with manifest.changing(own) as con:
        keys = [key for (key,) in con.execute("SELECT sample_id FROM images WHERE duplicate_of IS NULL AND sample_id "
                                              "NOT IN (SELECT duplicate_of FROM images WHERE duplicate_of IS NOT NULL)"
                                              ).fetchall()][: len(HOSTILE)]  # fmt: skip
        for key, text in zip(keys, HOSTILE, strict=True):
            con.execute("UPDATE images SET path = ?, given_label = ?, suggested_label = NULL, final_label = ?, "
                        "verdict = 'clean', reason = ?, error = ?, predicted_label = ?, confidence = 0.01 "
                        "WHERE sample_id = ?",
                        [text] * 6 + [key])  # fmt: skip
            con.execute("UPDATE images SET sample_id = ? WHERE sample_id = ?", [text, key])
            con.execute("INSERT INTO classes SELECT ?, 1, 1, 0, 0, 0, 0, NULL, NULL, NULL", [text])
        con.execute("UPDATE runs SET source = '<script>hacked()</script>'")
    page = opened(serving(own))
    page.evaluate("() => { window.hacked = () => { window.wasHacked = true; }; }")
    labels = page.locator(".card .labels").all_inner_texts()
    assert {text for text in HOSTILE if text.isprintable()} <= set(labels)
    for _ in HOSTILE:
        page.keyboard.press("z")
        eventually(lambda: page.evaluate("document.querySelector('#zoom img, #zoom .no-picture')"))
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        page.keyboard.press("Escape")
        page.keyboard.press("o")
    eventually(lambda: len(decided(own)) == len(HOSTILE))
    page.keyboard.press("h")
    page.wait_for_selector("#history li")
    assert page.evaluate("window.wasHacked === undefined")
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('svg, iframe, object, embed, [onerror], [onload]').length") == 0
    shown = page.evaluate("document.body.innerText")
    assert "\u202e" not in shown
    assert "\x1b" not in shown


def test_a_million_rows_are_quick(serving, opened, crawl, tmp_path):
    """Prints what bench/EXPERIMENTS.md says: `pytest -m slow -s -k million`. The limits here are for busy machines."""
    millionrows.write(tmp_path / "run", 1_000_000, sorted(crawl.glob("*/0*.png")))
    page = opened(serving(tmp_path / "run"))
    [first] = page.evaluate("""performance.getEntriesByType("resource").filter((r) => r.name.endsWith("/api/page"))
        .slice(0, 1).map((r) => r.responseEnd)""")
    assert page.locator("#count").inner_text() == "1,000,000 pictures"
    seconds = {key: sorted(_answered_s(page, key) for _ in range(20)) for key in "oau"}
    page.keyboard.press("End")
    page.wait_for_selector(".card[data-place='999999'] .caption")
    told = ", ".join(f"{key} {1000 * s[10]:.0f} ({1000 * s[-1]:.0f})" for key, s in seconds.items())
    print(f"\nrows after {first:.0f} ms; median (longest) of 20 actions in ms: {told}")
    assert first < 5000
    assert all(s[10] < 1 for s in seconds.values())


def _answered_s(page, key: str) -> float:
    """From the key to the answer that is stored, drawn."""
    with page.expect_response(lambda answer: answer.url.endswith(("/decide", "/undo"))) as found:
        begun = time.perf_counter()
        page.keyboard.press(key)
    found.value.finished()
    page.evaluate("new Promise(requestAnimationFrame)")
    taken = time.perf_counter() - begun
    page.wait_for_timeout(300)
    return taken
