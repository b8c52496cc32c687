"""The whole story: read the crawl, inspect every file, learn, score, decide, retrain, write it down."""

import logging
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from cleanweb import (
    cachefolder,
    carried,
    checkpoint,
    inspection,
    judging,
    machine,
    malloc,
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
from cleanweb.crossfit import Learned, Lesson, Task
from cleanweb.errors import CrawlError, UsageError
from cleanweb.known import Crawled
from cleanweb.methods import Watch, unwatched
from cleanweb.network import save_classifier
from cleanweb.records import UNVERIFIED, Progress, Scores, silent
from cleanweb.report import write_if_possible
from cleanweb.resuming import Unfinished, fingerprint_of
from cleanweb.runfolder import Outcome, RunFolder
from cleanweb.schema import SCHEMA_VERSION
from cleanweb.settings import Settings, fingerprint_of_all
from cleanweb.trusted import trusted_classes

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
    mark = fingerprint_of(settings, samples, people)
    log.info("%d samples in %s; run %s in %s", len(samples), crawl.root, mark, unfinished.run)

    # what is there
    side = views.loaded_side(pixels.size_px)
    room = None if settings.cache_size is None else int(settings.cache_size * cachefolder.GB)
    if settings.cache_dir is None:
        place = unfinished.pixels
    else:
        place = held.enter_context(cachefolder.kept(settings.cache_dir, samples, side, room))
    facts, cache = inspection.inspect(samples, place, side, settings.workers, progress, room)
    cache.again = cachefolder.Again(samples, side)
    known = Crawled(samples, facts, *inspection.copies_among(samples, facts, cache, unfinished.path))
    malloc.return_freed()  # the many small lists of copies lie scattered
    scored = inspection.to_score(samples, facts, known.kept)
    classes, labels = inspection.encode([samples[i].given_label for i in scored])
    log.info("%d pictures of %d classes to learn from and score", len(scored), len(classes))
    inspection.refuse_too_many(len(scored), len(classes))

    # what the labels teach, and what the model then believes of every image
    verified = trusted_classes(people, known.kept, scored, classes)
    reviews = carried.over(unfinished.earlier, samples, crawl.root, classes)
    decided = carried.seen_classes(reviews, known, scored, classes)
    seen = np.where(decided == UNVERIFIED, verified, decided)
    taught = np.where(seen == UNVERIFIED, labels, seen)  # of no class: teaches nothing
    learning = unfinished.learning(
        fingerprint_of_all(
            (facts[i].pixel_digest, int(given), int(of)) for i, given, of in zip(scored, labels, seen, strict=True)
        )
    )
    training = plan.training(settings, device, backbone, len(labels))
    task = Task(cache.only(scored).load, taught, len(classes), backbone, pixels, device, settings.seed, learning,
                training.processes, progress, watch, labels, seen)  # fmt: skip
    for words in training.words:
        log.info(words)
    log.debug("to learn: %s; classifier: %s", training.recipe, training.classifier)
    lesson = Lesson(settings.method, settings.recipe, training.recipe, training.epochs)
    malloc.keep_freed()
    learner = tune.TUNES[training.tune](task, lesson)
    learned = learner.learn()
    scores = replace(_scored(learned, labels, device, learning), verified=verified)
    malloc.return_freed()
    results = unfinished.results
    results.save_scores(scored, scores, classes, training.rule)

    # what we conclude
    judged = carried.judged(known, scored, scores, classes, training.rule, reviews=reviews)
    verdicts = judged.verdicts
    log.info("verdicts %s; share of wrong labels %.3f (%.3f to %.3f)", verdicts.counts(), *judged.noise[-1])
    changed, replaced = inspection.changes(samples, facts), inspection.not_as_downloaded(samples, facts)
    final = verdicts.rows["final_label"][scored].astype(np.int64)
    classifier_epochs: list[train.EpochRecord] = []
    if (final >= 0).any():
        malloc.keep_freed()
        model, classifier_epochs = learner.retrain(final, training.classifier, training.classifier_epochs)
        save_classifier(model, results.classifier, classes, pixels.size_px)

    # what we hand over
    stages = {"train": learned.epochs, "refine": learned.refining, "classifier": classifier_epochs}
    del task, learner, learned, scores, labels, verified, decided, seen, taught, final  # numbers for every image
    malloc.return_freed()
    made = {
        "images": judging.Images(known, verdicts, [changed, replaced]),
        "classes": judging.classes_table(verdicts, judged.noise),
        "transition_matrix": tables.transition_table(judged.flow, classes),
        "reliability": tables.reliability_table(judged.reliability),
        "epochs": tables.epochs_table(stages),
        "runs": tables.runs_table(settings, crawl.root, mark, started, SCHEMA_VERSION, judged.noise),
        "reviews": judged.reviews,
        "audits": manifest.empty("audits"),  # an audit speaks of verdicts that are no more
        "audit_findings": manifest.empty("audit_findings"),
    }
    manifest.write(results.path, made)
    modelcard.write(results.classifier, results.path)
    results.save_record(made["runs"].iloc[0].to_dict())
    note = [f"{len(changed):,} files have changed or vanished since they were read: see their note."] * bool(changed)
    told = carried.heeded(people, settings.trusted)
    unfinished.complete([*crawl.notes, *told, *note, *training.words])


def _scored(learned: Learned, labels: np.ndarray, device: torch.device, learning: Path) -> Scores:
    """What is believed of every image, gathered once. labels (n,), −1 where none is given."""

    def gather() -> dict[str, np.ndarray]:
        return score.score(
            learned.probs, learned.disagreement, learned.features, learned.space, labels, device
        ).arrays()

    return Scores(**checkpoint.once(learning / "scores.npz", gather))


def _handed_over(unfinished: Unfinished, progress: Progress) -> Outcome:
    """The results in their places, with the report; what only an unfinished run needs is gone."""
    folder = RunFolder(unfinished.run)
    with manifest.alone(folder.path) if folder.manifest.exists() else nullcontext():
        if unfinished.results.manifest.exists():
            carried.set_aside(folder)
        notes = unfinished.publish()
    made = manifest.Tables(folder.path)
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
