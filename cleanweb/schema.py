"""The schema of the manifest, as data: tables, columns, rules, views, their comments; and the SQL that makes them.

It is a contract: users write SQL against it. Every table, view and column carries its comment inside the database
(`DESCRIBE` and `duckdb_columns()` show them), and rules in the database refuse a row that contradicts itself.
"""

from collections.abc import Iterable, Iterator

SCHEMA_VERSION = 5  # changes with the tables and their columns; every run stores the one it was written with

# For each table its columns: (name, SQL type, comment).
TABLES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "images": (
        # no key: DuckDB holds the index of a key in memory, 40 to 95 bytes a row; `manifest.write` sees to it
        ("sample_id", "VARCHAR NOT NULL", "The sample: its path, with #2, #3 … where a table names a path again"),
        ("path", "VARCHAR NOT NULL", "Path of the image, relative to the crawl where it lies inside it, else absolute"),
        ("status", "VARCHAR NOT NULL", "ok, or what is wrong with the row or its file: missing, truncated …"),
        ("error", "VARCHAR", "Why the status is not ok, in words"),
        ("format", "VARCHAR", "Image format as decoded, whatever the name says: JPEG, PNG, WEBP …"),
        ("width", "INTEGER", "Width in pixels, EXIF orientation applied"),
        ("height", "INTEGER", "Height in pixels, EXIF orientation applied"),
        ("bytes", "BIGINT", "Size of the image file in bytes"),
        ("sha256", "VARCHAR", "SHA-256 of the file's bytes, 64 hexadecimal digits"),
        ("phash", "VARCHAR", "64-bit perceptual hash, 16 hexadecimal digits: few bits differ where images look alike"),
        ("duplicate_of", "VARCHAR", "sample_id of the kept copy of the same picture; NULL where this is it"),
        ("given_label", "VARCHAR", "Label the crawl gave; NULL where it gave none"),
        ("verdict", "verdict NOT NULL", "clean: given label right; relabeled: another class; ood: no class; unusable"),
        ("suggested_label", "VARCHAR", "Label suggested instead of the given one; only where relabeled"),
        ("final_label", "VARCHAR", "Label to train on: the given if clean, the suggested if relabeled, else NULL"),
        ("p_clean", "FLOAT", "Probability that the given label is right; p_clean + p_id + p_ood = 1"),
        ("p_id", "FLOAT", "Probability that the image belongs to another of the classes"),
        ("p_ood", "FLOAT", "Probability that the image belongs to none of the classes"),
        ("confidence", "FLOAT", "Probability that the verdict, and the suggested label with it, is right"),
        ("needs_review", "BOOLEAN NOT NULL", "The evidence is thin: a person should look"),
        ("reason", "VARCHAR", "Why this verdict, in words"),
        ("js_clean", "FLOAT", "Likelihood of a clean label, 1 - Jensen-Shannon divergence of prediction and label"),
        ("view_disagreement", "FLOAT", "Share of pairs of augmented views whose predicted classes differ, in [0, 1]"),
        ("p_given", "FLOAT", "Probability the model gives the given label"),
        ("predicted_label", "VARCHAR", "The class the model finds most probable"),
        ("p_predicted", "FLOAT", "Probability the model gives the predicted label"),
        ("neighbour_agreement", "FLOAT", "Share of the nearest other images that carry the given label, in [0, 1]"),
        ("neighbour_similarity", "FLOAT", "Mean cosine similarity to the nearest other images, in [-1, 1]"),
        ("duplicate_kind", "VARCHAR", "exact: same to the network; near: looks the same; NULL where duplicate_of is"),
        ("note", "VARCHAR", "What else is worth knowing of the file: wrong extension, animated …"),
        ("file", "VARCHAR", "Absolute path of the file that holds the image; NULL where there is none"),
        (
            "row_in_file",
            "BIGINT",
            "Row of the Parquet file, or byte of the tar, at which the image lies; NULL where the file is the image",
        ),
        ("url", "VARCHAR", "Address the image was downloaded from, where the crawl says"),
        ("downloaded_sha256", "VARCHAR", "SHA-256 of the bytes as they were downloaded, where the crawl says"),
    ),
    "classes": (
        ("label", "VARCHAR PRIMARY KEY", "The class"),
        ("images", "BIGINT NOT NULL", "Images given this label"),
        ("clean", "BIGINT NOT NULL", "of these: the label is right"),
        ("relabeled_away", "BIGINT NOT NULL", "of these: another class is suggested"),
        ("relabeled_into", "BIGINT NOT NULL", "Images given another label for which this class is suggested"),
        ("ood", "BIGINT NOT NULL", "Images given this label that belong to none of the classes"),
        ("unusable", "BIGINT NOT NULL", "Images given this label that cannot be used"),
        ("noise_rate", "FLOAT", "Estimated share of usable pictures given this label whose label is wrong, in [0, 1]"),
        ("noise_low", "FLOAT", "Lower end of its interval, nominally of 95 %"),
        ("noise_high", "FLOAT", "Upper end of its interval, nominally of 95 %"),
    ),
    "transition_matrix": (
        ("true_label", "VARCHAR", "Class that images are estimated to show; NULL: none of the classes"),
        ("given_label", "VARCHAR NOT NULL", "Label they were given"),
        ("images", "DOUBLE NOT NULL", "Expected number of judged images that show the one and were given the other"),
        ("p_given", "DOUBLE NOT NULL", "Estimated share of the images showing true_label that were given given_label"),
    ),
    "reliability": (
        (
            "p_from",
            "DOUBLE NOT NULL",
            "Lower edge of a tenth of p_clean, as it was before people's labels moved it",
        ),
        ("images", "BIGINT NOT NULL", "Images in that tenth that people have verified"),
        ("p_clean", "DOUBLE NOT NULL", "Their mean p_clean"),
        ("share_right", "DOUBLE NOT NULL", "Share of them whose given label is right"),
    ),
    "epochs": (
        (
            "stage",
            "VARCHAR NOT NULL",
            "train: learning from the noisy labels; refine: from them set right; classifier: from the final",
        ),
        ("epoch", "INTEGER NOT NULL", "Epoch of the stage, as the training loop counts it"),
        ("loss", "DOUBLE", "Mean training loss; NULL where there was none"),
        ("tau", "DOUBLE", "Threshold above which a label counts as clean; NULL where the method has none"),
        ("n_clean", "BIGINT", "Samples treated as clean; NULL where the method does not select"),
        ("n_id", "BIGINT", "Samples treated as belonging to another class"),
        ("n_ood", "BIGINT", "Samples treated as belonging to no class"),
        ("lr", "DOUBLE", "Learning rate"),
        ("seconds", "DOUBLE", "Time the epoch took, in seconds"),
    ),
    "runs": (
        ("run_id", "VARCHAR PRIMARY KEY", "The run"),
        ("started_at", "TIMESTAMP", "Start, UTC"),
        ("finished_at", "TIMESTAMP", "End, UTC"),
        ("source", "VARCHAR", "Crawl folder or table that was given"),
        ("labels", "VARCHAR", "Table of labels that was given; NULL where folders are the labels"),
        ("root", "VARCHAR", "Folder that relative paths start from"),
        ("settings", "VARCHAR", "All settings of the run, JSON"),
        ("versions", "VARCHAR", "Versions of Python and of the libraries used, JSON"),
        ("target", "VARCHAR", "What retag was last asked for, JSON; NULL: the most probable verdicts"),
        ("noise_rate", "DOUBLE", "Estimated share of usable pictures whose label is wrong, in [0, 1]"),
        ("noise_low", "DOUBLE", "Lower end of its interval, nominally of 95 %"),
        ("noise_high", "DOUBLE", "Upper end of its interval, nominally of 95 %"),
        ("seed", "BIGINT", "Seed of every random choice"),
        ("fingerprint", "VARCHAR", "Hash of the samples, their labels, the settings and what people verified"),
        ("seconds", "DOUBLE", "Time the run took, in seconds"),
        ("cleanweb_version", "VARCHAR", "Version of cleanweb"),
        ("schema_version", "INTEGER", "Version of the tables of this file"),
    ),
    "reviews": (
        ("review_id", "BIGINT PRIMARY KEY", "The decision; later ones have higher numbers"),
        ("decided_at", "TIMESTAMP NOT NULL", "When it was taken, UTC"),
        ("who", "VARCHAR", "Who took it"),
        ("sample_id", "VARCHAR NOT NULL", "The sample it was taken on; it holds for all copies of the picture"),
        ("path", "VARCHAR NOT NULL", "Path of that image, as in images"),
        ("old_verdict", "verdict", "Verdict on the sample before"),
        ("old_label", "VARCHAR", "Its final_label before"),
        ("verdict", "verdict NOT NULL", "What the person decided: clean, relabeled or ood"),
        ("label", "VARCHAR", "The label the image has by this decision; NULL: none of the classes"),
        ("audit_id", "BIGINT", "The audit it was given in; NULL where it was given in none"),
        ("undone_at", "TIMESTAMP", "When it was taken back, UTC; NULL while it stands"),
        ("before", "VARCHAR", "What images would say of the picture and its copies without it, JSON: for undo"),
    ),
    "audits": (
        ("audit_id", "BIGINT NOT NULL", "The audit; later ones have higher numbers"),
        ("drawn_at", "TIMESTAMP NOT NULL", "When its first pictures were drawn, UTC"),
        ("seed", "BIGINT NOT NULL", "Seed of the draw"),
        ("position", "INTEGER NOT NULL", "Place in the order in which the pictures are asked, from 0"),
        ("sample_id", "VARCHAR NOT NULL", "The picture that was drawn"),
        ("path", "VARCHAR NOT NULL", "Path of that image, as in images"),
        ("verdict", "verdict NOT NULL", "Verdict on it when it was drawn, which is what is audited"),
        ("given_label", "VARCHAR", "Label the crawl gave"),
        ("claimed_label", "VARCHAR", "Label it has by that verdict; NULL: none of the classes"),
        ("offered_first", "VARCHAR NOT NULL", "The given label or the best other class, whichever comes first"),
        ("offered_second", "VARCHAR NOT NULL", "The other of the two"),
        ("stratum", "BIGINT NOT NULL", "Pictures that had this verdict when it was drawn, copies not counted"),
        ("answer", "VARCHAR", "class: it shows shown_label; none: no class; unsure: cannot tell; NULL: not answered"),
        ("shown_label", "VARCHAR", "The class a person sees in it"),
        ("answered_at", "TIMESTAMP", "When, UTC"),
        ("who", "VARCHAR", "Who"),
    ),
    "audit_findings": (
        ("audit_id", "BIGINT NOT NULL", "The audit"),
        ("finding", "VARCHAR NOT NULL", "What share this is: precision_clean, recall_clean, label_accuracy …"),
        ("value", "DOUBLE", "The share as estimated; NULL where too little has been judged"),
        ("low", "DOUBLE NOT NULL", "Lower end of its 95 % interval"),
        ("high", "DOUBLE NOT NULL", "Upper end of its 95 % interval"),
        ("lowest", "DOUBLE NOT NULL", "Lower end, were all pictures without a judgement against it"),
        ("highest", "DOUBLE NOT NULL", "Upper end, were they all for it"),
        ("pictures", "BIGINT NOT NULL", "Pictures it speaks of"),
        ("seen", "BIGINT NOT NULL", "of these: drawn and judged"),
        ("unknown", "BIGINT NOT NULL", "of these: drawn, but not answered or not to be told"),
    ),
}

# Rounding may carry a probability a hair beyond its range; that is no reason to lose a run.
_SHARE = "{0} BETWEEN -1e-6 AND 1 + 1e-6"

_VERDICT_RULE = """CASE verdict
    WHEN 'clean' THEN final_label IS NOT NULL AND final_label IS NOT DISTINCT FROM given_label
                      AND suggested_label IS NULL
    WHEN 'relabeled' THEN suggested_label IS NOT NULL AND final_label IS NOT DISTINCT FROM suggested_label
                          AND suggested_label IS DISTINCT FROM given_label
    ELSE final_label IS NULL AND suggested_label IS NULL END"""

_NOISE = ("noise_rate", "noise_low", "noise_high")
_SHARES = ("p_clean", "p_id", "p_ood", "confidence", "js_clean", "view_disagreement", "p_given", "p_predicted")

# What no row may contradict. A comparison with NULL passes. Nothing of images has an index: where a rule names such a
# column and another, DuckDB changes a row by writing another one at the table's end, and rows would lose their order.
RULES: dict[str, tuple[str, ...]] = {
    "images": (
        _VERDICT_RULE,
        *(_SHARE.format(name) for name in (*_SHARES, "neighbour_agreement")),
        "(p_clean IS NULL) = (p_id IS NULL) AND (p_clean IS NULL) = (p_ood IS NULL)",
        "abs(p_clean + p_id + p_ood - 1) < 1e-3",
        "(duplicate_of IS NULL) = (duplicate_kind IS NULL) AND duplicate_kind IN ('exact', 'near')",
        "length(sha256) = 64",
        "length(phash) = 16",
    ),
    "classes": tuple(_SHARE.format(name) for name in _NOISE),
    "transition_matrix": ("images >= 0", _SHARE.format("p_given")),
    "reliability": (_SHARE.format("p_clean"), _SHARE.format("share_right")),
    "epochs": ("stage IN ('train', 'refine', 'classifier')",),
    "runs": tuple(_SHARE.format(name) for name in _NOISE),
    "reviews": ("verdict <> 'unusable' AND (verdict = 'ood') = (label IS NULL)",),
    "audits": (
        "verdict <> 'unusable' AND (verdict = 'ood') = (claimed_label IS NULL)",
        "answer IN ('class', 'none', 'unsure')",
        "coalesce(answer = 'class', false) = (shown_label IS NOT NULL)",
        "(answer IS NULL) = (answered_at IS NULL)",
    ),
    "audit_findings": tuple(_SHARE.format(name) for name in ("value", "low", "high", "lowest", "highest")),
}

# What a person's decision changes in a row of images.
CHANGED = ("verdict", "suggested_label", "final_label", "p_clean", "p_id", "p_ood", "confidence", "needs_review",
           "reason")  # fmt: skip

# Which rows of images `cleanweb export --only …` hands over; each is a view.
SELECTIONS: dict[str, tuple[str, str]] = {
    "clean": ("verdict = 'clean'", "Images whose given label is right"),
    "relabeled": ("verdict = 'relabeled'", "Images that belong to another class: see suggested_label"),
    "ood": ("verdict = 'ood'", "Images that belong to none of the classes"),
    "unusable": ("verdict = 'unusable'", "Images that cannot be used: see reason"),
    "trainable": ("final_label IS NOT NULL AND duplicate_of IS NULL", "Images with a final_label, one per picture"),
}

TRANSITIONS = """SELECT given_label, suggested_label, count(*) AS images FROM images WHERE verdict = 'relabeled'
    GROUP BY given_label, suggested_label ORDER BY images DESC, given_label, suggested_label"""

# How many images have each of these statuses.
STATUSES = """SELECT status, count(*) AS images FROM numbered_images WHERE status IN (SELECT unnest(?))
    GROUP BY status ORDER BY images DESC, min(rowid)"""

# The rows of pictures of which there are copies; `picture` is the sample_id of the kept one.
COPIES = """SELECT coalesce(duplicate_of, sample_id) AS picture, * FROM numbered_images
    WHERE duplicate_of IS NOT NULL OR sample_id IN (SELECT duplicate_of FROM images)"""

_COMMENTS = {
    "images": "One row per sample of the crawl: what its file is, what was concluded, and the evidence",
    "classes": "One row per class: counts, and how noisy its labels are",
    "reliability": "How often labels are right, by their probability, where people have looked",
    "transition_matrix": "How labels were given: for each true class, estimated, the labels its images got",
    "epochs": "One row per epoch of training",
    "runs": "One row: how this manifest was made",
    "reviews": "One row per decision of a person; of those on one picture the last that stands holds",
    "audits": "One row per picture drawn at random for a person to judge without seeing the verdict",
    "audit_findings": "What each audit has shown so far: shares with their intervals",
    "transitions": "How many images each given label lost to each suggested label, most frequent first",
}


def statements(images: Iterable[str] = ()) -> Iterator[str]:
    """The statements that make an empty manifest; where `images` are given, these make the view of that name."""
    yield f"CREATE TYPE verdict AS ENUM ({', '.join(repr(name) for name in SELECTIONS if name != 'trainable')})"
    for table in TABLES:
        yield from images if table == "images" and images else [f"CREATE TABLE {table} ({definition(table)})"]
        yield from (_comment(f"COLUMN {table}.{name}", comment) for name, _, comment in TABLES[table])
        yield _comment(f"{'VIEW' if table == 'images' and images else 'TABLE'} {table}", _COMMENTS[table])
    comments = {view: _COMMENTS[view] for view in _COMMENTS.keys() - TABLES.keys()}
    for view, (condition, comment) in SELECTIONS.items():
        comments[view] = comment
        yield f"CREATE VIEW {view} AS SELECT * FROM images WHERE {condition}"
        yield from (_comment(f"COLUMN {view}.{name}", comment) for name, _, comment in TABLES["images"])
    yield f"CREATE VIEW transitions AS {TRANSITIONS}"
    yield _comment("COLUMN transitions.given_label", "Label the crawl gave")
    yield _comment("COLUMN transitions.suggested_label", "Label suggested instead")
    yield _comment("COLUMN transitions.images", "Images relabeled from the one to the other")
    yield from (_comment(f"VIEW {name}", comment) for name, comment in sorted(comments.items()))


def definition(table: str) -> str:
    """Its columns and rules, as CREATE TABLE takes them."""
    columns = [f"{name} {sql_type}" for name, sql_type, _ in TABLES[table]]
    return ", ".join(columns + [f"CHECK ({rule})" for rule in RULES[table]])


def _comment(on: str, text: str) -> str:
    return f"COMMENT ON {on} IS {quoted(text)}"


def quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


# The tables that each version added. A manifest of an older version lacks them: they are read as empty, and it is
# written anew as one of this version before anything is changed in it.
MIGRATIONS: dict[int, tuple[str, ...]] = {2: ("reviews",), 3: ("audits", "audit_findings"), 4: ("reliability",)}
NEW_COLUMNS: dict[str, tuple[str, ...]] = {"images": ("url", "downloaded_sha256")}  # since version 5; NULL before
