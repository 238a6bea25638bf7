"""Silences library messages that a user of this program cannot act on."""

from __future__ import annotations

import logging


def quiet() -> None:
    """Call before anything is loaded; imports transformers."""
    import huggingface_hub
    import transformers

    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # "inputs will be cast", once per layer and step
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
