"""Second moments of the inputs of chosen layers, streamed over calibration batches with padding masked (`_padding`).

C = E[xxᵀ], or Cov[x] = E[xxᵀ] − E[x]E[x]ᵀ where a variant asks for it centred. Products and sums are fp64: a few
outlier channels of a transformer are 1e3 times the rest, so C spans 1e6 and fp32 rounding (TF32 and autocast more so)
would reach the small eigenvalues that C^-½ divides by. A token costs i² fp64 multiplications; the block itself about
12·i².

Layers that get the very same tensor (q, k and v of one attention block) share one accumulator of i² fp64 numbers. When
the accumulators exceed `BUDGET` bytes, there are several passes over the batches, each for as many layers as fit.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters._errors import AdapterError, problem
from adapters._left_out import output_embeddings
from adapters._padding import WHERE, Padding
from adapters._weights import Layer, layer_shape

BUDGET = 4 << 30  # bytes of accumulators at a time: 512 of width 1024, 32 of width 4096
ROWS = 4096  # tokens copied to fp64 at a time


def second_moments(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    *,
    centred: bool = False,
    budget: int = BUDGET,
) -> Moments:
    """Module name → C (i, i), fp64, on the layer's device.

    batches: a dict is model(**b), a tensor model(b); an iterator is read once. centred: Cov[x] instead of E[xxᵀ]. The
    model runs in evaluation mode, without gradients, and is left as it was. Raises AdapterError when there is no batch
    or no unmasked token, when a layer is not called or its inputs are not finite.
    """
    return Moments(model, layers, materialised(batches), budget, centred)


def materialised(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list. Raises AdapterError for an empty one, and for items that are neither dict nor tensor."""
    if isinstance(batches, (Tensor, Mapping)):
        raise AdapterError(problem(WHERE, "this is one batch", expected="a list of batches", remedy="Pass [batch]."))
    listed = list(batches)
    if not listed:
        raise AdapterError(problem(WHERE, "no batches", remedy="Pass at least one batch of training inputs."))
    for batch in listed:
        if not isinstance(batch, (Tensor, Mapping)):
            raise AdapterError(problem(WHERE, "not a batch", got=type(batch).__name__, expected="a dict or a tensor"))
    return listed


def calibration_sha256(batches: Iterable[Any]) -> str:
    """SHA-256 over the batches in order: keys, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for batch in batches:
        for key, value in sorted(batch.items()) if isinstance(batch, Mapping) else [("", batch)]:
            if isinstance(value, Tensor):
                t = value.detach().cpu().contiguous()
                digest.update(f"{key} {t.dtype} {tuple(t.shape)}\n".encode())
                digest.update(t.flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(f"{key} {value!r}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


class Moments:
    """Module name → C (i, i). Reading a name that is not held makes the pass over the batches that computes it.

    tokens: module name → unmasked tokens that C is a mean over; known once C has been read.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Layer], batches: list[Any], budget: int, centred: bool = False
    ) -> None:
        self.model, self.layers, self.batches, self.budget = model, dict(layers), batches, budget
        self.centred = centred
        self.tokens: dict[str, int] = {}
        self._held: dict[str, Tensor] = {}  # by leader
        self._leader = self._shared_inputs()
        self._passes = self._plan()

    def __getitem__(self, name: str) -> Float[Tensor, "i i"]:
        leader = self._leader[name]
        if leader not in self._held:
            self._held = {}  # freed before the next pass fills its own
            held = self._accumulate(next(p for p in self._passes if leader in p))
            if held is None:  # layers that shared an input in the first batch did not in another: one accumulator each
                self._leader = {n: n for n in self.layers}
                self._passes = self._plan()
                return self[name]
            self._held = held
        return self._held[self._leader[name]]

    def _shared_inputs(self) -> dict[str, str]:
        """Name → the layer whose accumulator it uses: the first one called with the same tensors in the first batch."""
        seen: dict[int, tuple[Any, int]] = {}
        inputs: dict[str, list[int]] = {}
        counter = itertools.count()

        def see(name: str, x: Tensor) -> None:
            alive, number = seen.get(id(x), (None, -1))
            if alive is None or alive() is not x:  # ids are used again once a tensor is freed
                number = next(counter)
                seen[id(x)] = (weakref.ref(x), number)
            inputs.setdefault(name, []).append(number)

        with captured(self.layers, see):
            run(self.model, self.batches[0], self.layers)
        first: dict[tuple[int, ...], str] = {}
        leaders = {name: first.setdefault(tuple(numbers), name) for name, numbers in inputs.items()}
        return {name: leaders.get(name, name) for name in self.layers}

    def _plan(self) -> list[list[str]]:
        """Leaders in model order, split so that each part's accumulators fit the budget (one at least)."""
        passes: list[list[str]] = []
        room = 0
        for leader in dict.fromkeys(self._leader.values()):
            need = 8 * layer_shape(self.layers[leader])[1] ** 2
            if not passes or need > room:
                passes.append([])
                room = self.budget
            passes[-1].append(leader)
            room -= need
        return passes

    def _accumulate(self, leaders: list[str]) -> dict[str, Tensor] | None:
        """One pass over all batches. None when a layer did not get its leader's input."""
        names = [n for n, leader in self._leader.items() if leader in leaders]
        sums = {leader: Sums() for leader in leaders}
        calls = dict.fromkeys(names, 0)
        last: dict[str, Any] = {}
        same = True
        padding = Padding(self.model, self.layers)

        def see(name: str, x: Tensor) -> None:
            nonlocal same
            leader = self._leader[name]
            calls[name] += 1
            if leader != name:
                same = same and leader in last and last[leader]() is x
                return
            last[name] = weakref.ref(x)
            sums[name].add(padding.rows(name, x))

        with captured({n: self.layers[n] for n in names}, see), padding.watching():
            for batch in self.batches:
                padding.enter(batch)
                run(self.model, batch, self.layers)
        if not same or any(calls[n] != calls[self._leader[n]] for n in names):
            return None
        self.tokens |= {n: sums[self._leader[n]].tokens for n in names}
        return {n: sums[n].finish(n, self.centred) for n in leaders}


class Sums:
    """Σx (i,) and Σxxᵀ (i, i) over tokens, fp64."""

    def __init__(self) -> None:
        self.tokens = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def add(self, rows: Float[Tensor, "n i"]) -> None:
        """Adds tokens, in parts that bound the fp64 copy."""
        if self.first is None or self.second is None:
            i = rows.shape[1]
            self.first = torch.zeros(i, dtype=torch.float64, device=rows.device)
            self.second = torch.zeros(i, i, dtype=torch.float64, device=rows.device)
        self.tokens += len(rows)
        for part in torch.split(rows, ROWS):
            wide = part.to(torch.float64)
            self.first += wide.sum(0)
            self.second.addmm_(wide.T, wide)

    def finish(self, name: str, centred: bool) -> Float[Tensor, "i i"]:
        """C in the place of Σxxᵀ, or an AdapterError that says why layer `name` has none."""
        if self.first is None or self.second is None:
            remedy = "Leave it out of targets, or give other batches."
            raise AdapterError(problem(WHERE, f"layer {name} was never called", remedy=remedy))
        if not self.tokens:
            remedy = "Check the batches' masks."
            raise AdapterError(problem(WHERE, f"no unmasked token reached layer {name}", remedy=remedy))
        if not torch.isfinite(self.second).all():
            remedy = "Load the model in a wider dtype."
            raise AdapterError(problem(WHERE, f"NaN or Inf in the inputs of layer {name}", remedy=remedy))
        C, mean = self.second.div_(self.tokens), self.first / self.tokens
        return C.addr_(mean, mean, alpha=-1) if centred else C


@contextmanager
def captured(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls see(name, x) with every input x of the layers; the hooks are gone at the end of the block."""
    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.register_forward_pre_hook(partial(_pass_on, name, see), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _pass_on(
    name: str, see: Callable[[str, Tensor], None], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    see(name, args[0] if args else next(iter(kwargs.values())))


def run(model: nn.Module, batch: Any, layers: Mapping[str, nn.Module]) -> None:
    """One forward pass in evaluation mode, without gradients, key-value cache or (where possible) logits."""
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    modes = [(m, m.training) for m in model.modules()]  # parts may be in different modes
    model.eval()
    try:
        with torch.no_grad():
            if isinstance(batch, Tensor):
                model(batch.to(device), **_savings(model, layers, {}))
            else:
                inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in _inputs(model, batch).items()}
                model(**_savings(model, layers, inputs) | inputs)
    finally:
        for module, mode in modes:
            module.training = mode


def _inputs(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch without `labels` where they only add a loss; an encoder-decoder model derives inputs from them."""
    labels = inspect.signature(model.forward).parameters.get("labels")
    needed = labels is None or labels.default is inspect.Parameter.empty
    if needed or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return batch
    return {k: v for k, v in batch.items() if k != "labels"}


def _savings(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> dict[str, Any]:
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    heads = output_embeddings(model)
    every = "labels" in inputs or any(id(layer) in heads for layer in layers.values())  # a loss takes all logits
    if "logits_to_keep" in accepted and not every:
        options["logits_to_keep"] = 1  # a full vocabulary of logits per token would be the pass's largest tensor
    return options
