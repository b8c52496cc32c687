"""Damaged and hostile input, at random: whatever is read, it ends in one status or in one CleanwebError.

    python -m tests.fuzz images --n 20000          # or tables, tars, checkpoints, classifiers, manifests, scores
    python -m tests.fuzz tables --n 20000 --first 5000 --corpus FOLDER

Every mutant is made from its number alone, so that a finding can be made again: `--first NUMBER --n 1`. Each is read
in a supervised process: an exception of any other kind, a crash, a hang or too much memory is a finding.
`tests/test_fuzz.py` runs a small, fixed budget of the same.
"""

import argparse
import functools
import io
import json
import random
import resource
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cleanweb import workers
from cleanweb.errors import CleanwebError
from cleanweb.records import Status, Unread
from cleanweb.workers import Failed

MEMORY_BYTES = 3 << 30  # beyond what importing takes; images are given the same, and 179 megapixels need it
WEIGHTS = "model.safetensors"

# --- mutants --------------------------------------------------------------------------------------------------------

_NUMBERS = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\x7f\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4,
            b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0", b"\0\0\0\1", b"\0" * 8, b"\xff" * 8]  # fmt: skip
_WORDS = [b'"', b"'", b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\0", b"\\", b"{", b"}", b"[", b"]", b":",
          b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5000, b"true", b"\\u0000", b"\\ud800", b"\xff\xfe",
          b"\xef\xbb\xbf", b"\xe9", b"../", b"/etc/passwd", b"\x1b[2J", "😀".encode(), b"path", b"label", b"=1+1",
          b'""', b"[" * 2000, b'{"a":' * 2000, b"x" * 200_000]  # fmt: skip


def mutant(number: int, seeds: list[bytes], words: bool) -> bytes:
    """The mutant of that number: one of the seeds, damaged in one to eight places."""
    rng = random.Random(number)
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        _damage(rng, data, seeds, words)
    return _with_sums(bytes(data)) if rng.random() < 0.7 else bytes(data)


def _damage(rng: random.Random, data: bytearray, seeds: list[bytes], words: bool) -> None:
    at = rng.randrange(len(data)) if data else 0
    if data and rng.random() < 0.5:
        at = min(at, rng.randrange(256))  # headers are where the decisions are
    length = rng.choice((1, 2, 4, 16, 64, 1024))
    match rng.randrange(8 if words else 7):
        case 0:
            data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if data else b""
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            number = rng.choice(_NUMBERS)
            data[at : at + len(number)] = number
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        case 5:
            del data[at + rng.randrange(len(data) + 1) :]
        case 6:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.choice((0, length))] = other[start : start + length]
        case 7:
            data[at:at] = rng.choice(_WORDS)


def _with_sums(data: bytes) -> bytes:
    """A PNG's and a tar's check sums made right, or nobody looks behind them."""
    if data[257:262] == b"ustar":
        return b"".join(_with_sum(data[at : at + 512]) for at in range(0, len(data), 512))
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts.append(data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big"))
        at = end + 4
    return b"".join(parts) + data[at:]


def _with_sum(block: bytes) -> bytes:
    if block[257:262] != b"ustar" or len(block) < 512:
        return block
    return block[:148] + b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:])) + block[156:]


# --- what is read, and how: a check gives the outcome in a word, and raises where something is wrong -----------------

Check = Callable[[bytes], str]


def images(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    from cleanweb.images import inspect_one, quiet
    from tests.imageseeds import seeds

    def check(data: bytes) -> str:
        with quiet():
            facts, pixels = inspect_one(data)
        assert (pixels is None) == (facts.status != Status.OK) == bool(facts.error), facts
        assert "\n" not in facts.error, facts
        return str(facts.status)

    with quiet():
        return [*seeds().values(), *_files(corpus)], check


def tables(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    from cleanweb import opening, readers
    from tests.imageseeds import saved

    for name in ("a.png", "b.png", "c d.png"):
        (folder / name).write_bytes(saved("PNG"))

    def check(data: bytes) -> str:
        table = folder / "labels.csv"
        table.write_bytes(data)
        outcomes = []
        for way in ((table, None), (folder, table)):
            try:
                crawl = readers.read(*way)
                for sample in crawl.samples:
                    f"{sample.sample_id}{sample.path}{sample.given_label}{sample.note}".encode()
                sum(1 for _ in opening.contents(crawl.samples))
                outcomes.append("crawl")
            except CleanwebError as error:
                outcomes.append(_name(error))
        return outcomes[0]

    return [*_tables(folder), *_files(corpus)], check


def tars(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    from cleanweb import opening, readers
    from tests.imageseeds import saved

    def check(data: bytes) -> str:
        (folder / "s.tar").write_bytes(data)
        try:
            crawl = readers.read(folder / "s.tar")
        except CleanwebError as error:
            return _name(error)
        for sample in crawl.samples:
            f"{sample.sample_id}{sample.path}{sample.given_label}{sample.note}{sample.url}".encode()
            assert (sample.status == Status.OK) != bool(sample.note), sample
        for i, content in opening.contents(crawl.samples):
            assert crawl.samples[i].file.endswith("s.tar")
            assert isinstance(content, bytes | Unread)
        broken = any(sample.status == Status.ERROR for sample in crawl.samples)
        return "broken" if broken else "read"

    return [*_tars(saved("PNG")), *_files(corpus)], check


def checkpoints(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    import torch

    from cleanweb import checkpoint, methods
    from cleanweb.backbone import Backbone
    from cleanweb.network import Network
    from cleanweb.settings import RECIPES
    from cleanweb.train import train

    recipe, file = RECIPES["auto"]["small"], folder / "fold-0.pt"

    def learner() -> methods.Method:
        torch.manual_seed(0)
        return methods.load("standard", "auto")(Network(Backbone("cnn5", False).build(3), False), 8, 3, recipe, 1)

    def batches(_: int) -> Iterator[methods.Batch]:
        yield methods.Batch(torch.arange(8), torch.arange(8) % 3, (torch.rand(8, 3, 32, 32),) * 2)

    train(learner(), batches, recipe, 1, file)
    whole = bytes(checkpoint.read(file))

    def check(data: bytes) -> str:
        # under a check sum that is right: what is damaged otherwise is not looked into
        checkpoint.write(file, lambda stream: stream.write(data))
        return _outcome(lambda: train(learner(), lambda _: iter(()), recipe, 1, file))

    return [whole, *_files(corpus)], check


def classifiers(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    """Even mutants damage config.json, odd ones the weights."""
    import torch

    from cleanweb.backbone import Backbone
    from cleanweb.classifier import load_classifier, save_classifier

    save_classifier(Backbone("cnn5", False).build(3), folder, ["cat", "dog", "rat"], 32)
    parts = {name: (folder / name).read_bytes() for name in ("config.json", WEIGHTS)}

    def classify() -> None:
        model, names = load_classifier(folder)
        with torch.inference_mode():
            best = model(torch.zeros(1, *model.pretrained_cfg["input_size"])).argmax(1)
        assert isinstance(names[best], str)

    def check(data: bytes) -> str:
        damaged = WEIGHTS if data[8:9] == b"{" else "config.json"
        for name, whole in parts.items():
            (folder / name).write_bytes(data if name == damaged else whole)
        return _outcome(classify)

    return [*parts.values(), *_files(corpus)], check


def manifests(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    from cleanweb import manifest
    from cleanweb.schema import TABLES
    from tests.test_report import tables

    made = tables(30)
    made["images"]["final_label"] = made["images"]["given_label"].where(made["images"]["verdict"] == "clean")
    manifest.write(folder, made)
    whole = (folder / "manifest.duckdb").read_bytes()

    def look() -> None:
        for table in TABLES:
            manifest.read(folder, table)
        manifest.select(folder, ["clean"], "confidence > 0.5")
        list(manifest.query(folder, "SELECT * FROM transitions")[1])

    def check(data: bytes) -> str:
        (folder / "manifest.duckdb").write_bytes(data)
        return _outcome(look)

    return [whole, *_files(corpus)], check


def scores(folder: Path, corpus: Path | None) -> tuple[list[bytes], Check]:
    from cleanweb.runfolder import RunFolder

    ours = RunFolder(folder)
    ours.save_scores(*_scores())
    whole = ours.scores.read_bytes()

    def check(data: bytes) -> str:
        ours.scores.write_bytes(data)
        return _outcome(ours.load_scores)

    return [whole, *_files(corpus)], check


TARGETS = {make.__name__: make for make in (images, tables, tars, checkpoints, classifiers, manifests, scores)}


def _outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except CleanwebError as error:
        return _name(error)
    return "read"


def _name(error: CleanwebError) -> str:
    assert str(error), "an error without words"
    return type(error).__name__


def _files(corpus: Path | None) -> list[bytes]:
    return [] if corpus is None else [file.read_bytes() for file in sorted(corpus.iterdir()) if file.is_file()]


def _tables(folder: Path) -> list[bytes]:
    import duckdb

    rows = [("a.png", "cat"), ("b.png", "dog"), ("c d.png", "007"), ("gone.png", ""), ("a.png", "dog")]
    text = "path,label\n" + "".join(f'"{path}",{label}\n' for path, label in rows)
    lines = "".join(json.dumps({"path": p, "label": n, "width": 24, "box": [1, 2.5, None]}) + "\n" for p, n in rows)
    found = [text.encode(), text.replace(",", ";").encode(), text.replace(",", "\t").encode("utf-16"),
             b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), lines.encode(),
             json.dumps([json.loads(line) for line in lines.splitlines()]).encode()]  # fmt: skip
    png = (folder / "a.png").read_bytes()
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t (path VARCHAR, label VARCHAR, n INTEGER, image STRUCT(bytes BLOB, path VARCHAR))")
        for i, (path, label) in enumerate(rows):
            con.execute("INSERT INTO t VALUES (?, ?, ?, {'bytes': ?, 'path': ?})", [path, label, i, png, path])
        columns = ("path, label", "path, label, n, 0.5 AS share, DATE '2020-01-01' AS day", "image, label",
                   "image.bytes AS image, n AS label")  # fmt: skip
        for i, part in enumerate(columns):
            for how in ("zstd", "snappy", "uncompressed", "gzip")[: 4 if i < 3 else 1]:
                con.execute(f"COPY (SELECT {part} FROM t) TO '{folder}/x.parquet' (COMPRESSION {how})")
                found.append((folder / "x.parquet").read_bytes())
    (folder / "x.parquet").unlink()
    return found


def _tars(png: bytes) -> list[bytes]:
    found = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with io.BytesIO() as written, tarfile.open(fileobj=written, mode="w", format=format) as tar:
            for i, name in enumerate(("0", "1", "a/2.left", "x" * 90 + "/" + "3" * 40, "é4", "5")):
                facts = json.dumps({"label": "cat", "url": "http://a/b.png", "sha256": "0" * 64}).encode()
                for ending, data in (("png", png), ("cls", b"cat" if i % 2 else b"dog"), ("json", facts)):
                    info = tarfile.TarInfo(f"{name}.{ending}")
                    info.type = tarfile.SYMTYPE if (name, ending) == ("5", "png") else tarfile.REGTYPE
                    info.size = len(data) if info.isreg() else 0
                    tar.addfile(info, io.BytesIO(data))
            tar.close()
            found.append(written.getvalue())
    return found


def _scores() -> tuple:
    import numpy as np

    from cleanweb.records import Scores

    rng, n, c = np.random.default_rng(0), 12, 3
    probs = rng.dirichlet(np.ones(c), n).astype(np.float32)
    share = rng.random(n).astype(np.float32)
    near = rng.integers(0, n, (n, 4)).astype(np.int32)
    found = Scores(np.arange(n) % c, probs, share, share, near, rng.random((n, 4)).astype(np.float32), np.full(n, -2))
    return np.arange(n), found, ["cat", "dog", "rat"], None


# --- the run --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a budget of mutants has led to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)  # number of the mutant, what went wrong
    slowest: tuple[float, int] = (0.0, -1)  # seconds, number
    peak_bytes: int = 0  # the most memory a process held


def start(target: str, corpus: Path | None, _: int) -> Callable[[int], tuple[str, float, int]]:
    """What one process does with the number of a mutant: (outcome, seconds, its own peak memory in bytes)."""
    import warnings

    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds, check = TARGETS[target](folder, corpus)

    def act(number: int) -> tuple[str, float, int]:
        data, begun = mutant(number, seeds, words=target in ("tables", "classifiers")), time.perf_counter()
        outcome = check(data)
        return outcome, time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    return act


def fuzz(target: str, n: int, first: int = 0, corpus: Path | None = None, processes: int = 1) -> Report:
    """Read mutants first … first + n − 1 of a target."""
    report = Report()
    numbers = ((number, number) for number in range(first, first + n))
    begin = functools.partial(start, target, corpus)
    for number, answer in workers.run(begin, numbers, processes, deadline_s=60, memory_bytes=MEMORY_BYTES):
        if isinstance(answer, Failed):
            report.findings.append((number, answer.words))
            continue
        outcome, seconds, peak = answer
        report.outcomes[outcome] += 1
        report.slowest = max(report.slowest, (seconds, number))
        report.peak_bytes = max(report.peak_bytes, peak)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="a folder of files that are damaged too")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    begun = time.perf_counter()
    report = fuzz(asked.target, asked.n, asked.first, asked.corpus, asked.processes)
    print(f"{asked.n:,} mutants of {asked.target} in {time.perf_counter() - begun:.0f} s: {dict(report.outcomes)}")
    print(f"slowest {report.slowest[0]:.1f} s (number {report.slowest[1]}), most memory {report.peak_bytes >> 20} MiB")
    for number, words in report.findings:
        print(f"FINDING {number}: {words}")
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
