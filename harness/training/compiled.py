"""train.compile: the decoder's training forward through torch.compile. Evaluation and the loss behind it stay eager."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Int
from torch import Tensor

from harness.errors import refuse
from harness.loss import label_loss_sum


@contextmanager
def compiled(model: Any, batch: tuple[Int[Tensor, "B T"], Int[Tensor, " N"]], *, enabled: bool) -> Iterator[None]:
    """In the block the model's decoder runs compiled, with its adapter: one code for every width.

    batch: ids and labels, as `collate` gives them, that the code is chosen for. A resumed run must give the same ones,
    or its sums may round differently.
    Raises BadInput where the decoder cannot be compiled, as on a machine without a compiler.
    """
    if not enabled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    decoder = model.train().get_decoder()
    decoder.compile(dynamic=True)
    try:
        label_loss_sum(model, *batch)
        yield
    except TorchDynamoException as error:
        what = f"the model cannot be compiled here ({str(error).strip().splitlines()[0].rstrip('.')})"
        raise refuse("train.compile", what, got=True, remedy="Use train.compile=false.") from error
    finally:
        decoder._compiled_call_impl = None  # what `compile` sets
        model.eval()
