"""The training set: rows read as a stream, cleared of held-out questions, tokenised by chunks, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from harness.config.job import Job
from harness.data.held_out import remove_held_out
from harness.data.token_cache import Counts, Examples, Writer, cached, key_of
from harness.data.tokenize import all_cores, tokenize
from harness.errors import refuse
from harness.inputs.fingerprints import Fingerprint, has_changed
from harness.inputs.rows import Row, stream_rows

KEPT = 8  # data sets and question lists that a process keeps at hand
CHUNK = 1024  # rows tokenised at a time
UNFIT = 0.01  # share of rows that may be left out since their tokens do not fit; above it, the prompt is to blame
COUNTED = (
    "train_rows",
    "removed_for_validation",
    "over_long",  # longer than max_length tokens
    "unfit",  # see harness.tokens.tokenize
    "train_examples",  # what is left
    "without_original",  # of train_rows: rows that do not say which question they come from
    "removed_identical",  # of removed_for_validation: those among them, found by their own text
)


def training_set(job: Job, tokenizer: Any, held_out: set[str], fingerprint: Fingerprint) -> tuple[Examples, Counts]:
    """Tokenised training rows: from this process, from the disk cache, or built and kept in both."""
    source, where = job.train_source, "data.train"
    settings = {"held_out": sorted(held_out), "prompt": job.prompt, "max_length": job.max_length}
    key = key_of(tokenizer, rows=fingerprint.content, **settings)

    def build(writer: Writer) -> Counts:
        counts = fill(writer, stream_rows(source, where, needed=("query", "response")), held_out, job, tokenizer)
        if has_changed(source, fingerprint, where):  # or the cache would keep other rows under this key for ever
            place = source.path or source.hub
            raise refuse(where, "changed while it was read", got=place, remedy="Run the same command again.")
        return counts

    def load() -> tuple[Examples, Counts]:
        with all_cores(job.threads):
            return cached(job.cache_dir / "tokens", key, build)

    return keep(key, load)


def fill(writer: Writer, rows: Iterable[Row], held_out: set[str], job: Job, tokenizer: Any) -> Counts:
    """Writes the rows that are trained on, by chunks. Raises BadInput where none is left or the prompt is unfit."""
    counts, first_unfit = dict.fromkeys(COUNTED, 0), 0
    clean = remove_held_out(enumerate(rows, start=1), held_out, counts)
    while chunk := list(islice(clean, CHUNK)):
        for (number, _), example in zip(chunk, tokenize([r for _, r in chunk], job.prompt, tokenizer), strict=True):
            if example is None:
                counts["unfit"] += 1
                first_unfit = first_unfit or number
            elif len(example.ids) > job.max_length:
                counts["over_long"] += 1
            else:
                counts["train_examples"] += 1
                writer.add(example)
        # A few odd rows (a question that ends in a space, say) are no reason to refuse 395,000; they are left out and
        # counted like over-long ones. Many are the template's fault, which shows in the first chunk.
        seen = counts["train_rows"] - counts["removed_for_validation"]
        if counts["unfit"] > UNFIT * seen:
            place = f"{job.train_source.path or job.train_source.hub}:{first_unfit}"
            raise refuse(
                "benchmark.prompt",
                f"its tokens are no prefix of the training text's, or EOS is no token of its own, in {counts['unfit']} "
                f"of {seen} rows (first {place})",
                got=job.prompt,
                remedy="End it so that a response after a space begins a new token, as after a colon.",
            )
    if counts["train_examples"] == 0:
        raise refuse(
            "data.train",
            "no example left after validation and length limits",
            got=counts,
            remedy="Raise benchmark.max_length.",
        )
    return counts


_kept: dict[str, Any] = {}


def keep(key: str, make: Callable[[], Any]) -> Any:
    """What `make` gave for this key; a process keeps the last few for its next jobs."""
    made = _kept.pop(key) if key in _kept else make()
    _kept[key] = made
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return made
