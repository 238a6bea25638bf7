"""The training set: a stream of rows without held-out questions, tokenised in chunks and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from harness.config.job import Job
from harness.data.held_out import HeldOut, remove_held_out
from harness.data.token_cache import Counts, Examples, key_of, read_examples, write_examples
from harness.data.tokenize import Example, tokenize
from harness.errors import refuse
from harness.files import cached_folder
from harness.inputs.fingerprints import Fingerprint, source_fingerprint
from harness.inputs.rows import stream_rows

T = TypeVar("T")
WHERE = "data.train"
KEPT = 8  # data sets and question lists that a process keeps in memory
CHUNK = 1024  # rows tokenised at a time
UNFIT = 0.01  # share of rows that may be dropped because their tokens do not fit; above it, the prompt is at fault
COUNTED = (
    "train_rows",
    "removed_for_validation",
    "removed_for_test",
    "over_long",  # longer than max_length tokens
    "unfit",  # see harness.data.tokenize
    "train_examples",  # what is left
    "without_original",  # of train_rows: rows that do not say which question they come from
    "removed_identical",  # of removed_for_validation: those among them, recognised by their own text
    "valid_unmatched",  # validation questions that no training row comes from
)


def training_set(job: Job, tokenizer: Any, held_out: HeldOut, fingerprint: Fingerprint) -> tuple[Examples, Counts]:
    """Tokenised training rows: from this process, from the disk cache, or built and kept in both."""
    hidden = {"valid": sorted(held_out.valid), "test": sorted(held_out.test)}
    settings = {"held_out": hidden, "prompt": job.prompt, "max_length": job.max_length}
    key = key_of(tokenizer, rows=fingerprint.content, **settings)

    def fill(folder: Path) -> None:
        counts = dict.fromkeys(COUNTED, 0)
        write_examples(folder, _examples(job, tokenizer, held_out, counts), counts)
        if source_fingerprint(job.train_source, job.cache_dir, WHERE) != fingerprint:  # the key would be another file's
            got = job.train_source.path
            raise refuse(WHERE, "changed while it was read", got=got, remedy="Run the same command again.")

    return keep(key, lambda: read_examples(cached_folder(job.cache_dir / "tokens", key, fill)))


def _examples(job: Job, tokenizer: Any, held_out: HeldOut, counts: Counts) -> Iterator[Example]:
    """The rows that are trained on, counted. Raises BadInput where none is left or the prompt is unfit."""
    source, first_unfit = job.train_source, 0
    clean = remove_held_out(stream_rows(source, WHERE, needed=("query", "response")), held_out, counts)
    while chunk := list(islice(clean, CHUNK)):
        for (number, _), example in zip(chunk, tokenize([r for _, r in chunk], job.prompt, tokenizer), strict=True):
            if example is None:
                counts["unfit"] += 1
                first_unfit = first_unfit or number
            elif len(example.ids) > job.max_length:
                counts["over_long"] += 1
            else:
                counts["train_examples"] += 1
                yield example
        # A few unfit rows (a question that ends in a space, say) are dropped and counted, like over-long ones. Many
        # mean an unfit template, which shows in the first chunk.
        seen = counts["train_rows"] - counts["removed_for_validation"] - counts["removed_for_test"]
        if counts["unfit"] > UNFIT * seen:
            place = f"{source.path or source.hub}:{first_unfit}"
            what = "the prompt does not tokenize to a prefix of prompt + response, or EOS merges with the preceding "
            what += f"text, in {counts['unfit']} of {seen} rows (first {place})"
            remedy = "End it so that a response after a space begins a new token, as after a colon."
            raise refuse("benchmark.prompt", what, got=job.prompt, remedy=remedy)
    if counts["train_examples"] == 0:
        what = "no example left after removing held-out questions and over-long rows"
        raise refuse(WHERE, what, got=counts, remedy="Give other rows, or raise benchmark.max_length.")


_kept: dict[str, Any] = {}


def keep(key: str, make: Callable[[], T]) -> T:
    """The value of `make()` for this key; a process keeps the last few for its next jobs."""
    value: T = _kept.pop(key) if key in _kept else make()
    _kept[key] = value
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return value
