"""The report: whole in itself, safe whatever a crawl says, small whatever its size, and true to the manifest."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cleanweb import charts, manifest, report, thumbnails
from cleanweb.images import thumbnail
from cleanweb.schema import TABLES
from tests.test_cli import cleanweb

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What is in a page: its tags with their attributes, and its text; fails where tags are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def tables(n: int = 40, labels: tuple[str, ...] = ("cat", "dog"), verdicts: tuple[str, ...] = ("clean", "ood"),
           folder: Path = Path("nowhere")) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The tables of a run on n images, verdicts and labels in turn; their files lie in `folder`, or nowhere."""
    rng = np.random.default_rng(0)
    images = pd.DataFrame({name: [None] * n for name, _, _ in TABLES["images"]})
    images["path"] = images["sample_id"] = [f"{i:06d}.png" for i in range(n)]
    images["file"] = [str(folder / path) for path in images["path"]]
    images["status"], images["needs_review"] = "ok", False
    images["given_label"] = [labels[i % len(labels)] for i in range(n)]
    images["verdict"] = [verdicts[i // len(labels) % len(verdicts)] for i in range(n)]
    moved = images["verdict"] == "relabeled"
    other = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    images.loc[moved, "suggested_label"] = images.loc[moved, "given_label"].map(other)
    shares = rng.dirichlet((1, 1, 1), n)
    for i, name in enumerate(("p_clean", "p_id", "p_ood")):
        images[name] = shares[:, i]
    images["confidence"] = rng.random(n)
    classes = pd.DataFrame([{"label": label, "images": n // len(labels), "clean": 1, "relabeled_away": 0,
                             "relabeled_into": 0, "ood": 0, "unusable": 0, "noise_rate": 0.25, "noise_low": 0.0,
                             "noise_high": 0.5} for label in labels])  # fmt: skip
    flow = pd.DataFrame({"true_label": [*labels, None], "given_label": [*labels, labels[0]], "images": 3.0,
                         "p_given": 1.0})  # fmt: skip
    epochs = pd.DataFrame({name: [None] * 3 for name, _, _ in TABLES["epochs"]})
    epochs["stage"], epochs["epoch"], epochs["loss"] = "train", [1, 2, 3], [2.0, 1.0, 0.5]
    made = {name: [None] for name, _, _ in TABLES["runs"]}
    made |= {"run_id": ["r"], "source": ["crawl"], "settings": [json.dumps({"seed": 0})], "cleanweb_version": ["1"],
             "noise_rate": [0.25], "noise_low": [0.125], "noise_high": [0.5]}  # fmt: skip
    return {"images": images, "classes": classes, "transition_matrix": flow, "epochs": epochs,
            "runs": pd.DataFrame(made),
            **{name: manifest.empty(name)
               for name in ("reviews", "audits", "audit_findings", "reliability")}}  # fmt: skip


def render(made: dict[str, pd.DataFrame]) -> str:
    """The page of a run with these tables."""
    with tempfile.TemporaryDirectory() as folder:
        return report.render(written(made, Path(folder)))


def written(made: dict[str, pd.DataFrame], run: Path) -> Path:
    """The run folder with these tables; final labels follow from the verdicts."""
    images = made["images"]
    final = images["given_label"].where(images["verdict"] == "clean", images["suggested_label"])
    manifest.write(run, made | {"images": images.assign(final_label=final)})
    return run


def page(made: dict[str, pd.DataFrame]) -> Page:
    return Page(render(made))


# --- whole in itself ------------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_the_network_or_of_other_files(run: Path) -> None:
    text = report.write(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert attributes.get("href", "#").startswith("#")


def test_links_lead_somewhere_and_what_is_drawn_has_words(run: Path) -> None:
    tags = Page(report.write(run).read_text(encoding="utf-8")).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in tags if tag == "a"} <= set(ids)
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert all("aria-label" in attributes or "aria-hidden" in attributes for tag, attributes in tags if tag == "svg")


def test_it_says_what_the_manifest_says(run: Path) -> None:
    found = Page(report.write(run).read_text(encoding="utf-8")).text
    for verdict, n in manifest.query(run, "SELECT verdict, count(*) FROM images GROUP BY 1")[1]:
        assert re.search(rf"\b{verdict} {n:,} ", found)
    assert "broken.jpg" in found
    assert "1 of 1 pictures" in found  # the one under two labels


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert report.write(run).read_bytes() == report.write(run).read_bytes()


# --- hostile, broken, empty -----------------------------------------------------------------------------------------


def test_labels_and_paths_are_text_and_nothing_else() -> None:
    made = tables(
        labels=(HOSTILE, '" onload="alert(2)', "{{ 7 * 7 }}\x00\u202e"), verdicts=("clean", "relabeled", "ood")
    )
    made["images"].loc[0, "path"] = HOSTILE
    broken = ["truncated", HOSTILE, "unusable", None]
    made["images"].loc[1, ["status", "error", "verdict", "suggested_label"]] = broken
    made["images"].loc[3, ["duplicate_of", "duplicate_kind"]] = [made["images"].loc[2, "sample_id"], "near"]
    made["runs"]["source"] = made["runs"]["labels"] = made["runs"]["target"] = HOSTILE
    found = page(made)
    assert HOSTILE in found.text
    assert "{{ 7 * 7 }}\\x00\\u202e" in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


@given(st.text())
def test_what_is_long_is_cut_and_what_does_not_print_is_shown(text: str) -> None:
    found = report.cut(text, 20)
    assert len(found) <= 23 * len("\\U0010ffff")
    assert all(c.isprintable() or c in "\u200c\u200d" for c in found)
    if len(text) <= 20 and text.isprintable():
        assert found == text


def test_pictures_that_have_vanished_are_said_to_be_gone(tmp_path: Path) -> None:
    there = tmp_path / "000000.png"
    Image.new("RGB", (300, 200), "red").save(there)
    (tmp_path / "000001.png").write_text("no picture any more")
    found = page(tables(n=3, folder=tmp_path))
    assert (
        found.text.count("the file is gone") == [t for t, a in found.tags if a.get("class") == "gone"].count("div") > 0
    )
    assert any(tag == "img" for tag, _ in found.tags)


@pytest.mark.parametrize("verdicts", [("clean",), ("ood",), ("unusable",)])
def test_a_run_of_one_verdict(verdicts: tuple[str, ...]) -> None:
    assert "No image was relabeled." in page(tables(verdicts=verdicts)).text


def test_nothing_known_of_anything() -> None:
    made = tables(n=2)
    made["images"][["p_clean", "p_id", "p_ood", "confidence"]] = np.nan
    made["images"][["given_label", "verdict"]] = [None, "unusable"]
    made["classes"].loc[0, ["images", "noise_rate", "noise_low", "noise_high"]] = [0, np.nan, np.nan, np.nan]
    made["runs"][["noise_rate", "noise_low", "noise_high"]] = np.nan
    made["epochs"], made["transition_matrix"] = made["epochs"].head(0), made["transition_matrix"].head(0)
    found = page(made).text
    assert "Not known: nothing could be judged." in found
    assert "No epoch was recorded." in found


def test_it_stays_small_whatever_the_size_of_the_crawl(tmp_path: Path) -> None:
    labels = tuple(f"{i:04d} {'long ' * 200}" for i in range(2000))
    made = tables(20_000, labels, ("clean", "relabeled", "ood", "unusable"), tmp_path)
    images, rng = made["images"], np.random.default_rng(0)
    images["path"] = images["path"] + "é" * 1000
    images.loc[images["verdict"] == "unusable", ["status", "error"]] = ["truncated", "x" * 5000]
    copies = images.index[images.index % 3 == 2]
    images.loc[copies, "duplicate_of"] = images.loc[copies - 1, "sample_id"].to_numpy()
    images.loc[copies, "duplicate_kind"] = "near"
    Image.fromarray(rng.integers(0, 256, (112, 112, 3), np.uint8)).save(tmp_path / "noise.png")  # the worst to store
    images["file"] = str(tmp_path / "noise.png")
    made["epochs"] = pd.concat([made["epochs"]] * 2000)
    assert len(render(made).encode()) < 15_000_000


# --- where it goes --------------------------------------------------------------------------------------------------


def test_the_command_replaces_its_own_report_and_nothing_else(run: Path, crawl: Path, tmp_path: Path) -> None:
    code, out, _ = cleanweb("report", "--run", run)
    assert (code, out.strip()) == (0, str(run / "report.html"))
    assert cleanweb("report", "--run", run, "--out", run / "report.html")[0] == 0
    other = tmp_path / "page.html"
    code, out, _ = cleanweb("report", "--run", run, "--out", other, "--json")
    assert json.loads(out) == {"report": str(other), "bytes": other.stat().st_size}
    before = other.read_bytes()
    assert cleanweb("report", "--run", run, "--out", other)[0] == 2
    assert other.read_bytes() == before
    assert cleanweb("report", "--run", run, "--out", crawl / "page.html")[0] == 2
    assert cleanweb("report", "--run", run, "--out", other / "folder.html")[0] == 5
    assert cleanweb("report", "--run", tmp_path)[0] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_fit_writes_it_and_retag_refreshes_it(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert (copy / "report.html").exists()
    assert cleanweb("retag", "--keep", 0.5, "--run", copy, "--quiet")[0] == 0
    assert "retagged as" in (copy / "report.html").read_text(encoding="utf-8")


def test_a_run_does_not_fail_with_its_report(tmp_path: Path) -> None:
    (note,) = report.write_if_possible(tmp_path)
    assert "cleanweb report" in note


def test_it_needs_no_torch(run: Path) -> None:
    code = "import sys; from pathlib import Path; from cleanweb import report; report.write(Path(sys.argv[1]));"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == 0


# --- what it is made of ---------------------------------------------------------------------------------------------


def test_surest_and_least_sure_share_no_picture(tmp_path: Path) -> None:
    for n in (0, 1, 5, 23, 100):
        made = tables(n)
        images, run = made["images"], written(made, tmp_path / str(n))
        for verdict, (surest, least) in thumbnails.of_verdicts(run).items():
            shown = [row["sample_id"] for row in [*surest.rows, *least.rows]]
            there = int((images["verdict"] == verdict).sum())
            assert len(shown) == len(set(shown)) == min(there, 2 * thumbnails.OF_VERDICT)
            if least.rows:
                assert min(row["confidence"] for row in surest.rows) >= max(row["confidence"] for row in least.rows)


@given(st.fixed_dictionaries({name: st.integers(0, 10**6) for name in (*charts.JUDGED, "unusable")}))
def test_the_flow_stays_in_its_box_and_no_bars_overlap(counts: dict[str, int]) -> None:
    bars = charts.flow(counts)["bars"]
    for y in {bar["y"] for bar in bars}:
        row = sorted((bar["x"], bar["x"] + bar["width"]) for bar in bars if bar["y"] == y)
        ends = [0, *(x for bar in row for x in bar), charts.FLOW[0]]
        assert all(a <= b + 0.2 for a, b in pairwise(ends))


@given(st.lists(st.floats(0, 1), max_size=50), st.lists(st.floats(0, 1), max_size=50))
def test_a_histogram_counts_every_value_once(a: list[float], b: list[float]) -> None:
    found = charts.histogram({"a": np.array(a), "b": np.array(b)}, "a")
    assert found["threshold"] == (min(a) if a else None)
    assert not a or charts.LEFT <= found["threshold_x"] <= charts.RIGHT
    assert sum(row["counts"]["a"] for row in found["rows"]) == len(a)
    assert sum(row["counts"]["b"] for row in found["rows"]) == len(b)


@given(st.lists(st.floats(-1e6, 1e6), max_size=1000))
def test_a_line_begins_and_ends_where_its_points_do(y: list[float]) -> None:
    line = charts.line(range(len(y)), y)
    if not y:
        assert line is None
        return
    drawn = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert len(drawn) <= charts.MOST_POINTS + 1
    assert (line["begin"], line["end"]) == (y[0], y[-1])
    assert all(charts.LEFT <= a <= charts.RIGHT and charts.TOP <= b <= charts.BOTTOM for a, b in drawn)


def test_a_thumbnail_is_small_and_upright(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (2000, 1000), "red").save(file, exif=exif)
    assert thumbnail(file.read_bytes(), 112).size == (56, 112)


def test_what_people_found_is_drawn_on_the_line_where_it_is_what_was_said() -> None:
    made = tables()
    assert "where people have looked" not in render(made)
    rows = [(0.1, 20, 0.15, 0.15), (0.9, 50, 0.95, 1.0)]
    made["reliability"] = pd.DataFrame(rows, columns=["p_from", "images", "p_clean", "share_right"])
    drawn = render(made)
    assert "where people have looked" in drawn
    low, high = charts.reliability(made["reliability"].to_dict("records"))
    on_the_line = charts.BOTTOM - 0.15 * (charts.BOTTOM - charts.TOP)
    assert low["y"] == pytest.approx(on_the_line, abs=0.06)
    assert (low["low"], low["high"]) == pytest.approx((0.0524, 0.3604), abs=1e-4)  # Wilson's interval of 3 of 20
    assert high["high"] == 1
    assert "92.9% to 100.0%" in drawn
