"""Kill a command again and again, each time the whole process group, and give it again until it ends.

    python -m tests.killing --kills 100 [--tune head --backbone local-dir:FOLDER] [--signal KILL]

draws a small crawl, takes the verdicts of an undisturbed run, then kills runs: half of them at moments spread evenly
over a run's length, half of them soon after they have told of a stage, each stage as often. Holds the verdicts that
they end with against those of the undisturbed run. Prints what was killed when, and what went wrong.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cleanweb import manifest

COLOURS = {"red": (200, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210)}


def draw(folder: Path, per_class: int) -> None:
    """Noisy coloured squares, some under a wrong label; a broken file and a copy."""
    rng = np.random.default_rng(0)
    for k, label in enumerate(COLOURS):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            shown = list(COLOURS.values())[(k + (i % 6 == 0)) % 3]
            pixels = np.clip(rng.normal(shown, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i:03d}.png")
    (folder / "red" / "broken.jpg").write_text("<!doctype html><html></html>")
    (folder / "red" / "copy.png").write_bytes((folder / "red" / "001.png").read_bytes())


def start(words: list[str], errors: Path) -> subprocess.Popen[bytes]:
    """A command in a process group of its own; what it says goes to the file `errors`."""
    with errors.open("ab") as stream:
        return subprocess.Popen([sys.executable, "-m", "cleanweb", *words], stdout=subprocess.DEVNULL, stderr=stream,
                                start_new_session=True)  # fmt: skip


def left_over(run: Path) -> list[str]:
    """Command lines of processes, not this one, that belong to the run: workers that outlived it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            if f"KILLING={run}".encode() in environment and int(entry.name) != os.getpid():
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [] if state == "Z" else [(entry / "cmdline").read_bytes().decode().replace("\0", " ")]
        except OSError:
            continue
    return found


def rows(run: Path) -> pd.DataFrame:
    return manifest.read(run, "images")


Moment = tuple[str, float]  # so many seconds after a stage was told of first; "": after the start


def kill_until_done(
    words: list[str], run: Path, moments: Iterable[Moment], number: int, only_parent: bool = False
) -> tuple[list[str], Counter]:
    """Start, kill, start again; once more without a kill. Gives what went wrong, and the last stage that each killed
    process had told of."""
    errors, wrong, stages = run.with_suffix(".log"), [], Counter()
    os.environ["KILLING"] = str(run)
    for moment in moments:
        errors.unlink(missing_ok=True)
        process = start(words, errors)
        ended = _ends_before(process, errors, moment)
        if not ended:
            (os.kill if only_parent else os.killpg)(process.pid, number)
            process.wait(60)
        said = errors.read_text(encoding="utf-8", errors="replace")
        told = [line.split(":")[0] for line in said.splitlines() if " of " in line and line[0].islower()]
        stages[told[-1] if told else "start"] += 1
        code = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        if process.returncode not in ((0, 6) if ended else (code, 0, -number)):
            wrong.append(f"{moment}: exit code {process.returncode}: {said[-400:]}")
        if "Traceback" in said or "damaged" in said:
            wrong.append(f"{moment}: {said[-1500:]}")
        deadline = time.monotonic() + 5
        while (orphans := left_over(run)) and time.monotonic() < deadline:
            time.sleep(0.05)
        wrong += [f"{moment}: still running: {orphan}" for orphan in orphans]
        if ended:
            break
    if not (run / "manifest.duckdb").exists() or (run / "unfinished").exists():
        process = start(words, errors)
        if process.wait(600) != 0:
            wrong.append(f"at last: exit code {process.returncode}: {errors.read_text()[-400:]}")
    return wrong, stages


def _ends_before(process: subprocess.Popen[bytes], errors: Path, moment: Moment) -> bool:
    """Wait for the moment; True where the process has ended first."""
    stage, delay = moment
    while stage and f"\n{stage}: " not in "\n" + errors.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None:
            return True
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--backbone", default="cnn5")
    parser.add_argument("--tune", default="full")
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--image-size", default="32")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT"])
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run before it may end")
    parser.add_argument("--only-parent", action="store_true")
    asked = parser.parse_args()
    number, draws = getattr(signal, f"SIG{asked.signal}"), random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        draw(place / "crawl", asked.per_class)
        common = ["fit", str(place / "crawl"), "--backbone", asked.backbone, "--tune", asked.tune, "--epochs",
                  asked.epochs, "--image-size", asked.image_size, "--workers", "2", "--device", "cpu"]  # fmt: skip
        began = time.monotonic()
        if start([*common, "--out", str(place / "whole")], place / "whole.log").wait(900) != 0:
            raise SystemExit((place / "whole.log").read_text())
        length, whole = time.monotonic() - began, rows(place / "whole")
        told = sorted({line.split(":")[0] for line in (place / "whole.log").read_text().splitlines() if " of " in line})
        print(f"stages: {told}")
        print(f"undisturbed: {length:.1f} s, {len(whole)} rows", flush=True)
        kills, changed, wrong, stages = 0, 0, [], Counter()
        while kills < asked.kills:
            run = place / f"run-{kills}"
            n = min(asked.per_run, asked.kills - kills)
            moments = [
                ("", draws.uniform(0.2, length * 1.05))
                if draws.random() < 0.5
                else (draws.choice(told), draws.random())
                for _ in range(n)
            ]
            found, seen = kill_until_done([*common, "--out", str(run)], run, moments, number, asked.only_parent)
            kills += sum(seen.values())
            wrong, stages = wrong + found, stages + seen
            if (run / "manifest.duckdb").exists():
                ended = rows(run)
                differs = len(ended) != len(whole) or not ended.equals(whole)
                changed += differs
                if differs:
                    print(ended.compare(whole) if len(ended) == len(whole) else f"{len(ended)} rows", flush=True)
            else:
                wrong.append("no manifest")
            print(f"{kills} kills, {changed} changed, {len(wrong)} wrong, {dict(stages)}", *found, flush=True)
        print(f"{kills} kills ({asked.signal}), runs that ended otherwise: {changed}, wrong: {len(wrong)}")
        print(*wrong, sep="\n")
        raise SystemExit(bool(changed or wrong))


if __name__ == "__main__":
    main()
