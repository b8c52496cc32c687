"""The whole story: read the crawl, inspect every file, learn, score, decide, retrain, write it down."""

import logging
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from cleanweb import (
    cachefolder,
    carried,
    checkpoint,
    deciding,
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
from cleanweb.backbone import Backbone
from cleanweb.classifier import save_classifier
from cleanweb.crossfit import Learned, Lesson, Task
from cleanweb.errors import CrawlError, UsageError
from cleanweb.known import Crawled
from cleanweb.methods import Watch, unwatched
from cleanweb.packed import Samples
from cleanweb.pixelcache import PixelCache
from cleanweb.records import UNVERIFIED, Progress, Scores, silent
from cleanweb.report import write_if_possible
from cleanweb.resuming import Unfinished, fingerprint_of
from cleanweb.runfolder import Outcome, RunFolder
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
            device = machine.choose_device(settings.device)
            network = plan.network(settings, device)
            with ExitStack() as held:
                _learn(_Job(settings, crawl, unfinished, held, device, *network, progress, watch))
        except (CrawlError, UsageError):
            if unfinished.is_new:  # there is nothing worth going on from
                unfinished.discard()
            raise
        return _copied(_handed_over(unfinished, progress), settings.copy_to)


@dataclass(frozen=True, slots=True)
class _Job:
    """What a run was asked for, and what there is to do it with."""

    settings: Settings
    crawl: readers.Crawl
    unfinished: Unfinished
    held: ExitStack  # what is locked until its results are complete
    device: torch.device
    backbone: Backbone
    pixels: views.Pixels
    progress: Progress
    watch: Watch


def _learn(job: _Job) -> None:
    """The whole story, until its results are complete in the unfinished run."""
    settings, crawl, unfinished = job.settings, job.crawl, job.unfinished
    started = datetime.now(UTC)
    samples = unfinished.begin(settings, crawl.samples)
    if not unfinished.has_learned():
        carried.remember(RunFolder(unfinished.run), unfinished.earlier)
    people = {} if settings.trusted is None else deciding.verified_labels(settings.trusted, samples, crawl.root)
    mark = fingerprint_of(settings, samples, people)
    log.info("%d samples in %s; run %s in %s", len(samples), crawl.root, mark, unfinished.run)

    known, cache = _inspected(job, samples)
    judged, epochs, words = _concluded(job, known, cache, people)
    malloc.return_freed()  # what was learned from is let go of
    changed = inspection.changes(samples, known.facts)
    notes = [changed, inspection.not_as_downloaded(samples, known.facts)]
    made = {
        "images": judging.Images(known, judged.verdicts, notes),
        "classes": judging.classes_table(judged.verdicts, judged.noise),
        "transition_matrix": tables.transition_table(judged.flow, judged.verdicts.classes),
        "reliability": tables.reliability_table(judged.reliability),
        "epochs": tables.epochs_table(epochs),
        "runs": tables.runs_table(settings, crawl.root, mark, started, judged.noise),
        "reviews": judged.reviews,
        "audits": manifest.empty("audits"),  # an audit speaks of verdicts that are no more
        "audit_findings": manifest.empty("audit_findings"),
    }
    results = unfinished.results
    manifest.write(results.path, made)
    modelcard.write(results.classifier, results.path)
    results.save_record(made["runs"].iloc[0].to_dict())
    note = [f"{len(changed):,} files have changed or vanished since they were read: see their note."] * bool(changed)
    unfinished.complete([*crawl.notes, *deciding.heeded(people, settings.trusted), *note, *words])


def _inspected(job: _Job, samples: Samples) -> tuple[Crawled, PixelCache]:
    """What is there: the facts of every file, which are copies of others, and the pixels."""
    settings, unfinished, side = job.settings, job.unfinished, views.loaded_side(job.pixels.size_px)
    room = None if settings.cache_size is None else int(settings.cache_size * cachefolder.GB)
    if settings.cache_dir is None:
        place = unfinished.pixels
    else:
        place = job.held.enter_context(cachefolder.kept(settings.cache_dir, samples, side, room, unfinished.is_new))
    facts, cache = inspection.inspect(samples, place, side, settings.workers, job.progress, room)
    cache.again = cachefolder.Again(samples, side)
    known = Crawled(samples, facts, *inspection.copies_among(samples, facts, cache, unfinished.path))
    malloc.return_freed()  # the many small lists of copies lie scattered
    return known, cache


def _concluded(
    job: _Job, known: Crawled, cache: PixelCache, people: dict[int, str | None]
) -> tuple[deciding.Judged, dict[str, list[train.EpochRecord]], list[str]]:
    """What the labels teach, what the model then believes of every image, and what we conclude; the classifier is left
    among the results. With the epochs of every stage, and what was chosen, in words."""
    settings, crawl, unfinished, samples = job.settings, job.crawl, job.unfinished, known.samples
    scored = inspection.to_score(samples, known.facts, known.kept)
    classes, labels = inspection.encode([samples[i].given_label for i in scored])
    log.info("%d pictures of %d classes to learn from and score", len(scored), len(classes))
    inspection.refuse_too_many(len(scored), len(classes))

    verified = trusted_classes(people, known.kept, scored, classes)
    reviews = carried.over(unfinished.earlier, samples, crawl.root, classes)
    decided = deciding.seen_classes(reviews, known, scored, classes)
    seen = np.where(decided == UNVERIFIED, verified, decided)
    taught = np.where(seen == UNVERIFIED, labels, seen)  # of no class: teaches nothing
    training = plan.training(settings, job.device, job.backbone, len(labels))
    learned_from = zip((known.facts[i].pixel_digest for i in scored), labels.tolist(), seen.tolist(), strict=True)
    learned_with = [*job.backbone.mark(), asdict(job.pixels), *training.mark()]  # "auto" may mean something else by now
    learning = unfinished.learning(fingerprint_of_all(chain([learned_with], learned_from)))

    for words in training.words:
        log.info(words)
    log.debug("to learn: %s; classifier: %s", training.recipe, training.classifier)
    task = Task(cache.only(scored).load, taught, len(classes), job.backbone, job.pixels, job.device, settings.seed,
                learning, training.processes, job.progress, job.watch, labels, seen)  # fmt: skip
    malloc.keep_freed()
    way = tune.TUNES[training.tune](task, Lesson(settings.method, settings.recipe, training.recipe, training.epochs))
    learned = way.learn()
    scores = replace(_scored(learned, labels, job.device, learning), verified=verified)
    malloc.return_freed()

    results = unfinished.results
    results.save_scores(scored, scores, classes, training.rule)
    judged = deciding.judged(known, scored, scores, classes, training.rule, reviews=reviews)
    log.info("verdicts %s; share of wrong labels %.3f (%.3f to %.3f)", judged.verdicts.counts(), *judged.noise[-1])
    epochs = {"train": learned.epochs, "refine": learned.refining, "classifier": list[train.EpochRecord]()}
    final = judged.verdicts.rows["final_label"][scored].astype(np.int64)
    if (final >= 0).any():
        malloc.keep_freed()
        model, epochs["classifier"] = way.retrain(final, training.classifier, training.classifier_epochs)
        save_classifier(model, results.classifier, classes, job.pixels.size_px)
    return judged, epochs, training.words


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
