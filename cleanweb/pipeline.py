"""The whole story: read the crawl, inspect every file, learn, score, decide, retrain, write it down."""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cleanweb import (
    cachefolder,
    carried,
    checkpoint,
    duplicates,
    images,
    machine,
    manifest,
    modelcard,
    plan,
    readers,
    remote,
    score,
    tables,
    train,
    tune,
    views,
)
from cleanweb.crossfit import Lesson, Task
from cleanweb.errors import CrawlError, MachineError, UsageError
from cleanweb.methods import Watch, unwatched
from cleanweb.network import save_classifier
from cleanweb.pixelcache import PixelCache
from cleanweb.records import CLOSED, UNVERIFIED, ImageFacts, Progress, Sample, Scores, Status, silent
from cleanweb.report import write_if_possible
from cleanweb.resuming import Unfinished, fingerprint_of
from cleanweb.runfolder import Outcome, RunFolder
from cleanweb.schema import SCHEMA_VERSION, TABLES
from cleanweb.settings import Settings, fingerprint_of_all
from cleanweb.trusted import trusted_classes
from cleanweb.workers import free_memory

log = logging.getLogger(__name__)


def fit(settings: Settings, progress: Progress = silent, watch: Watch = unwatched) -> Outcome:
    """Learn from the crawl's noisy labels and judge every image. Goes on where an unfinished run of the same crawl and
    settings stopped. watch sees every epoch of the last fold and of the classifier. Raises CleanwebError with words a
    user can act on."""
    folder = RunFolder(settings.out)
    folder.refuse_finished(settings.fresh)
    crawl = readers.read(settings.source, settings.labels, settings.path_column, settings.label_column,
                         settings.allow_outside, settings.merge_labels)  # fmt: skip
    folder.refuse_inside(crawl.root)
    if settings.cache_dir is not None:
        cachefolder.refuse_inside(settings.cache_dir, crawl.root)
    with folder.alone("fit"), machine.deterministic(settings.deterministic):
        unfinished = Unfinished(folder.path)
        if unfinished.is_complete():
            asked_for, run = unfinished.is_of(settings), _handed_over(unfinished, progress)
            if asked_for:
                return _copied(run, settings.copy_to)
        folder.refuse_finished(settings.fresh)  # another process may have come first
        try:
            with ExitStack() as held:
                _learn(settings, crawl, unfinished, held, progress, watch)
        except (CrawlError, UsageError):
            if unfinished.is_new:  # there is nothing worth going on from
                unfinished.discard()
            raise
        return _copied(_handed_over(unfinished, progress), settings.copy_to)


def _learn(
    settings: Settings, crawl: readers.Crawl, unfinished: Unfinished, held: ExitStack, progress: Progress, watch: Watch
) -> None:
    """The whole story, until its results are complete in the unfinished run. held: what is locked until then."""
    started = datetime.now(UTC)
    device = machine.choose_device(settings.device)
    backbone, pixels = plan.network(settings, device)
    samples = unfinished.begin(settings, crawl.samples)
    if not unfinished.has_learned():
        carried.remember(RunFolder(unfinished.run), unfinished.earlier)
    people = {} if settings.trusted is None else carried.verified_labels(settings.trusted, samples, crawl.root)
    machine.keep_freed_memory()
    mark = fingerprint_of(settings, samples, people)
    log.info("%d samples in %s; run %s in %s", len(samples), crawl.root, mark, unfinished.run)

    # what is there
    side = views.loaded_side(pixels.size_px)
    room = None if settings.cache_size is None else int(settings.cache_size * cachefolder.GB)
    if settings.cache_dir is None:
        place = unfinished.pixels
    else:
        place = held.enter_context(cachefolder.kept(settings.cache_dir, samples, side, room))
    facts, cache = inspect(samples, place, side, settings.workers, progress, room)
    cache.again = cachefolder.Again(samples, side)
    kept, kind = copies_among(samples, facts, cache, unfinished.path)
    scored = to_score(samples, facts, kept)
    classes, labels = encode([samples[i].given_label for i in scored])
    log.info("%d pictures of %d classes to learn from and score", len(scored), len(classes))
    refuse_too_many(len(scored), len(classes))

    # what the labels teach, and what the model then believes of every image
    rows = tables.facts_table(samples, facts, kept, kind)
    verified = trusted_classes(people, kept, scored, classes)
    reviews = carried.over(unfinished.earlier, samples, crawl.root, classes)
    decided = carried.seen_classes(reviews, rows, scored, classes)
    seen = np.where(decided == UNVERIFIED, verified, decided)
    taught = np.where(seen == UNVERIFIED, labels, seen)  # of no class: teaches nothing
    learning = unfinished.learning(
        fingerprint_of_all((facts[i].pixel_digest, int(of)) for i, of in zip(scored, taught, strict=True))
    )
    training = plan.training(settings, device, backbone, len(labels))
    task = Task(cache.only(scored).load, taught, len(classes), backbone, pixels, device, settings.seed, learning,
                training.processes, progress, watch)  # fmt: skip
    for words in training.words:
        log.info(words)
    log.debug("to learn: %s; classifier: %s", training.recipe, training.classifier)
    lesson = Lesson(settings.method, settings.recipe, training.recipe, training.epochs)
    learner = tune.TUNES[training.tune](task, lesson)
    learned = learner.learn()
    scores = Scores(**checkpoint.once(
        learning / "scores.npz",
        lambda: score.score(
            learned.probs, learned.disagreement, learned.features, learned.space, labels, device
        ).arrays(),
    ))  # fmt: skip
    scores = replace(scores, verified=verified)
    results = unfinished.results
    results.save_scores(scored, scores, classes, training.rule)

    # what we conclude
    judged = carried.judged(rows, scored, scores, classes, training.rule, reviews=reviews)
    rows, decision = judged.images, judged.decision
    log.info("verdicts %s; share of wrong labels %.3f (%.3f to %.3f)", dict(Counter(map(str, decision.verdict))),
             *decision.noise[-1])  # fmt: skip
    changed, replaced = changes(samples, facts), not_as_downloaded(samples, facts)
    rows = tables.with_notes(tables.with_notes(rows, changed), replaced)
    final = encode([rows.at[i, "final_label"] for i in scored], classes)[1]
    classifier_epochs: list[train.EpochRecord] = []
    if (final >= 0).any():
        model, classifier_epochs = learner.retrain(final, training.classifier, training.classifier_epochs)
        save_classifier(model, results.classifier, classes, pixels.size_px)

    # what we hand over
    made = {
        "images": rows,
        "classes": tables.classes_table(rows, classes, decision.noise),
        "transition_matrix": tables.transition_table(decision.flow, classes),
        "reliability": tables.reliability_table(decision.reliability),
        "epochs": tables.epochs_table({"train": learned.epochs, "classifier": classifier_epochs}),
        "runs": tables.runs_table(settings, crawl.root, mark, started, SCHEMA_VERSION, decision.noise),
        "reviews": judged.reviews,
        "audits": manifest.empty("audits"),  # an audit speaks of verdicts that are no more
        "audit_findings": manifest.empty("audit_findings"),
    }
    manifest.write(results.path, made)
    modelcard.write(results.classifier, made)
    results.save_record(made["runs"].iloc[0].to_dict())
    note = [f"{len(changed):,} files have changed or vanished since they were read: see their note."] * bool(changed)
    told = carried.heeded(people, settings.trusted)
    unfinished.complete([*crawl.notes, *told, *note, *training.words])


def _handed_over(unfinished: Unfinished, progress: Progress) -> Outcome:
    """The results in their places, with the report; what only an unfinished run needs is gone."""
    folder = RunFolder(unfinished.run)
    with manifest.alone(folder.path) if folder.manifest.exists() else nullcontext():
        if unfinished.results.manifest.exists():
            carried.set_aside(folder)
        notes = unfinished.publish()
    made = {name: manifest.read(folder.path, name) for name in TABLES}
    notes += [*carried.done(folder, made["reviews"]), *write_if_possible(folder.path, progress)]
    unfinished.discard()
    return Outcome(folder.path, made, notes)


def _copied(run: Outcome, to: remote.Remote | None) -> Outcome:
    """The run, and a copy of it at an address, if one is asked for."""
    if to is None:
        return run
    for part in RunFolder(run.folder).parts():
        remote.upload(part, f"{to}/{part.name}")
    return replace(run, notes=[*run.notes, f"The run lies in {run.folder}, and a copy of it in {to}."])


def inspect(
    samples: Sequence[Sample],
    pixels: Path,
    side_px: int,
    workers: int | None,
    progress: Progress,
    room_bytes: int | None = None,
) -> tuple[Sequence[ImageFacts], PixelCache]:
    """Facts of every sample, and the pixels, which are kept in the folder `pixels` as far as there is room; a row that
    names a path again has its first row's facts."""
    total = sum(sample.status not in CLOSED for sample in samples)
    workers = machine.cores() if workers is None else workers
    contents = readers.contents(samples)
    found, cache = images.inspect(contents, total, pixels, side_px, workers, progress, room_bytes)
    assert cache is not None, "there is a folder for it"
    words = set[str]()
    for fact in found.values():
        if fact.status == Status.OK:
            break
        words.add(fact.error)
    else:
        raise CrawlError(f"None of the {total} files can be read: {'; '.join(sorted(words)[:3])}.")
    numbers = np.arange(len(samples))
    for i, first in duplicates.first_rows(samples).items():
        numbers[i] = first
    return found.of(numbers), cache


def copies_among(
    samples: Sequence[Sample], facts: Sequence[ImageFacts], cache: PixelCache, folder: Path
) -> tuple[np.ndarray, list[str]]:
    """The index of each sample's kept copy (n,), and what kind of copy it is; looked for once, and kept in `folder`."""
    file = folder / f"copies-{fingerprint_of_all(fact.pixel_digest for fact in facts)}.npz"

    def look() -> dict[str, np.ndarray]:
        found = duplicates.group(samples, facts, duplicates.picture_comparison(cache.load))
        return {"kept": found.kept, "kind": np.array(found.kind, np.str_)}

    found = checkpoint.once(file, look)
    return found["kept"], found["kind"].tolist()


def changes(samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> dict[int, str]:
    """What has become of files since they were read, in words, by sample index: verdicts are about what was read."""
    there = functools.cache(lambda file: Path(file).exists())

    def change(sample: Sample, fact: ImageFacts) -> str:
        if remote.is_address(sample.file):  # not asked again
            return ""
        if sample.row is None:
            return images.changed_since(Path(sample.file), fact)
        return "" if there(sample.file) else f"the file that held it, {sample.file}, has vanished since it was read"

    found = ((i, change(sample, facts[i])) for i, sample in enumerate(samples) if facts[i].status == Status.OK)
    return {i: words for i, words in found if words}


def not_as_downloaded(samples: Sequence[Sample], facts: Sequence[ImageFacts]) -> dict[int, str]:
    """Which images are not the bytes that were downloaded, in words, by sample index. Where none of them is, they were
    resized or written anew by the crawler, and that is no news of any."""
    known = {i: s.sha256.lower() for i, s in enumerate(samples) if s.sha256 and facts[i].sha256}
    other = {i: f"not the bytes that were downloaded: their SHA-256 was {sha256}" for i, sha256 in known.items()
             if sha256 != facts[i].sha256}  # fmt: skip
    return other if len(other) < len(known) else {}


def to_score(samples: Sequence[Sample], facts: Sequence[ImageFacts], kept: np.ndarray) -> np.ndarray:
    """The samples to train on and score: readable, and not a copy of another; with a label or without: indices (m,)."""
    named_again = (Status.REPEATED, Status.CONFLICTING)
    usable = [
        fact.status == Status.OK and sample.status not in named_again
        for sample, fact in zip(samples, facts, strict=True)
    ]
    return np.flatnonzero(np.array(usable) & (kept == np.arange(len(samples))))


def refuse_too_many(n: int, c: int) -> None:
    """Raises MachineError where the probabilities of n images and c classes cannot be held: now, not in some hours."""
    needed, free = 4 * c * (3 * n + 3 * c), free_memory()  # while it is decided (`verdict.py`), at least
    if free is not None and needed > free:
        raise MachineError(
            f"{n:,} images of {c:,} classes need {needed / 1e9:,.1f} GB of memory at least, and {free / 1e9:,.1f} GB "
            "are free here. Leave out classes of a few images, whose labels cannot be judged, or take a larger machine."
        )


def encode(labels: Sequence[str | None], classes: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """The class names, sorted, and each label's place among them, −1 where there is none: (n,) int64."""
    classes = sorted({label for label in labels if label is not None}) if classes is None else classes
    if len(classes) < 2:
        raise CrawlError(f"There are {len(classes)} classes among the readable images: at least two are needed.")
    place = {label: i for i, label in enumerate(classes)}
    return classes, np.array([-1 if label is None else place[label] for label in labels], np.int64)
