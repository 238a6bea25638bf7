"""A device that is not there: what a GPU would be asked to do, from fake tensors, without one and without arithmetic.

FakeTensorMode on a backend of its own (`DEVICE`) gives every tensor a shape, a dtype and a device, and no memory. A
dispatch mode, the Meter, sees every operator. It raises where one mixes devices or draws from another device's
generator, and it counts kernel launches, host waits (with the line that asked), fp64 matrix products and live bytes.

A value that the host reads is made up (1, True). Attention is what CUDA would run: flash without a mask, else the
memory-efficient kernel. Registering the backend changes the process for good (autograd starts a thread for it, which
does not survive a fork), so tests run in a process of their own.
"""

from __future__ import annotations

import os
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.paths import ROOT

DEVICE = "simulated"
BLOCK = 512  # bytes: the allocator's granularity on CUDA
aten = torch.ops.aten
_FAKES = FakeTensorMode()  # one for all blocks: a variant may keep a tensor for the whole process


class _Module(backend_registration._DummyBackendModule):
    """What `torch.simulated` offers: the names that torch asks for."""

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())

# Operators whose result, or whose error check, the host reads.
READS = {
    "_local_scalar_dense": lambda t: True if t.dtype == torch.bool else 1.0 if t.is_floating_point() else 1,
    "equal": lambda *_: True,
    "is_nonzero": lambda *_: True,
}
WAITS = {"nonzero", "masked_select", "_linalg_check_errors", "_linalg_eigh", "unique_dim", "_unique2", "bincount"}
WAITS |= {"int8_vectorwise_quant"}  # of bitsandbytes: it asks which columns hold outliers
NO_KERNEL = {"_unsafe_view", "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"}
NO_KERNEL |= {"new_empty_strided", "_reshape_alias", "view_of", "split_with_sizes", "unbind"}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "_linalg_eigh", "linalg_qr", "linalg_solve")


class MixedDevicesError(RuntimeError):
    """An operator got tensors, or a generator, of different devices."""


class Meter(TorchDispatchMode):
    """Counts since the last `reset`; live and peak (bytes) since the Meter began.

    launches: kernels by operator. waits: host waits by the line that asked. fp64: matrix products in fp64, by operator.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.reset()

    def reset(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.fp64: Counter[str] = Counter()
        self.peak = self.live

    def wait(self, what: str) -> None:
        self.waits[f"{what} @ {_caller()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a fake tensor's attributes
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and (whole := self._decomposed(func, args, kwargs)) is not NotImplemented:
            return whole
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        _refuse_mixed(func, name, tensors, leaves)
        here = [t for t in tensors if _simulated(t)]
        self._note_copies(name, tensors, kwargs)
        if name in READS:
            if here:
                self.wait(name)
            return READS[name](*tensors)
        if here and name in WAITS:
            self.wait(name)
        out = _llm_int8(name, tensors) if name.startswith("int8_") else func(*args, **kwargs)
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if any(map(_simulated, results)) or (here and not results):
            if not (func.is_view or name in NO_KERNEL):
                self.launches[name] += 1
            if name.startswith(PRODUCTS) and any(t.dtype == torch.float64 for t in results):
                self.fp64[f"{name} {tuple(results[0].shape)}"] += 1
        self._track(results)
        return out

    def _decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Under inference_mode composite operators arrive whole; CUDA would run their parts."""
        if func.namespace != "aten" or not func.has_kernel_for_dispatch_key(
            torch._C.DispatchKey.CompositeImplicitAutograd
        ):
            return NotImplemented
        with self:
            return func.decompose(*args, **kwargs)

    def _note_copies(self, name: str, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
        """Copies between the host and the device wait, but for those from pinned memory that say non_blocking."""
        if name == "_to_copy" and kwargs.get("device") is not None:
            places = tensors[0].device.type, torch.device(kwargs["device"]).type
            blocking = not kwargs.get("non_blocking")
        elif name == "copy_":
            places, blocking = (tensors[1].device.type, tensors[0].device.type), True
        else:
            return
        if DEVICE in places and places[0] != places[1] and blocking:
            self.wait(f"copy {places[0]} → {places[1]}")
        if places[1] == DEVICE and getattr(tensors[0], "constant", None) is not None:
            tensors[0].constant = None  # type: ignore[attr-defined]  # else FakeTensorMode would really run the copy

    def _track(self, results: list[Tensor]) -> None:
        for t in filter(_simulated, results):
            storage = t.untyped_storage()
            key = id(storage)
            if key in self._storages and self._storages[key][0]() is storage:
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK

            def gone(_: Any, key: int = key, size: int = size) -> None:
                self.live -= size
                self._storages.pop(key, None)

            self._storages[key] = (weakref.ref(storage, gone), size)
            self.live += size
            self.peak = max(self.peak, self.live)


def _simulated(t: Any) -> bool:
    return bool(t.device.type == DEVICE)


def _refuse_mixed(func: Any, name: str, tensors: list[Tensor], leaves: list[Any]) -> None:
    """Raises MixedDevicesError; numbers on the CPU (0-dim tensors) may go with anything, as on CUDA."""
    places = {t.device.type for t in tensors if t.dim() or _simulated(t)}
    if DEVICE in places and len(places) > 1 and name not in ("copy_", "_to_copy"):
        shapes = ", ".join(f"{tuple(t.shape)} on {t.device.type}" for t in tensors)
        raise MixedDevicesError(f"{func} mixes devices: {shapes} @ {_caller()}")
    for g in leaves:
        target = tensors[0].device.type if tensors else None
        if isinstance(g, torch.Generator) and target == DEVICE and g.device.type != DEVICE:
            raise MixedDevicesError(f"{func} on {DEVICE} draws from a generator on {g.device.type} @ {_caller()}")


def _caller() -> str:
    """The innermost line of this repository, and the library's function that it led to."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__]
    ours = [f for f in frames if f.filename.startswith(str(ROOT)) and "site-packages" not in f.filename]
    others = [f for f in frames if "site-packages" in f.filename and "/torch/" not in f.filename]
    named = [f"{os.path.relpath(f.filename, ROOT)}:{f.lineno} {f.line}" for f in ours[-1:]]
    named += [f"{'/'.join(f.filename.split('/')[-2:])} {f.name}" for f in others[-1:]]
    return " → ".join(named)


# -- the surroundings --------------------------------------------------------------------------------------------------
def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **more: Any
) -> Tensor:
    """What scaled_dot_product_attention launches on CUDA, with cuDNN's kernels turned off."""
    scale = more.get("scale")
    if attn_mask is None:
        flash: Any = aten._scaled_dot_product_flash_attention
        return cast(Tensor, flash(q, k, v, dropout_p, is_causal, scale=scale)[0])
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(q.dtype)
    attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    efficient: Any = aten._scaled_dot_product_efficient_attention
    saves = torch.is_grad_enabled()
    return cast(Tensor, efficient(q, k, v, attn_mask, saves, dropout_p, is_causal, scale=scale)[0])


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Module.to with new tensors (tied ones stay so): torch would swap data in place, which fake tensors refuse."""
    moved: dict[Tensor, Any] = {}
    for m in module.modules() if recurse else [module]:
        for key, p in m._parameters.items():
            if p is not None and p not in moved:
                moved[p] = nn.Parameter(fn(p.detach()), p.requires_grad)
            m._parameters[key] = None if p is None else moved[p]
        for key, b in m._buffers.items():
            m._buffers[key] = None if b is None else fn(b)
    return module


@contextmanager
def simulated() -> Iterator[Meter]:
    """A block in which tensors are fake and `DEVICE` exists. Everything used in it must be built in it."""
    import transformers.masking_utils as masks

    import adapters._hooks as hooks
    import adapters._weights as weights

    meter = Meter()
    numpy, quantization = Tensor.numpy, weights.quantization

    def fake_tolist(t: Tensor) -> Any:
        if _simulated(t):
            meter.wait("tolist")
        return np.full(t.shape, 7).tolist()

    def fake_numpy(t: Tensor, **kwargs: Any) -> Any:
        fake = isinstance(t, FakeTensor)
        return np.zeros(t.shape, str(t.dtype).removeprefix("torch.")) if fake else numpy(t, **kwargs)

    def fake_quantization(layer: nn.Module) -> str | None:
        """A FakeTensor is no plain tensor to the library, which refuses classes it does not know."""
        return None if type(layer) is nn.Linear and isinstance(layer.weight, FakeTensor) else quantization(layer)

    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (masks, "is_tracing", lambda *_: False),  # it takes fake tensors for tracing, and would build other masks
        (F, "scaled_dot_product_attention", _attention),
        (FakeTensor, "tolist", fake_tolist),
        (Tensor, "numpy", fake_numpy),
        (Tensor, "pin_memory", lambda t, *_: t),
        (nn.Module, "_apply", _apply),
        (weights, "quantization", fake_quantization),
        (hooks, "quantization", fake_quantization),
    ]
    lifts = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for place, name, stand_in in patches:
            stack.enter_context(mock.patch.object(place, name, stand_in))
        stack.enter_context(_FAKES)
        stack.enter_context(meter)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) is a copy from the CPU
        yield meter


def _llm_int8(name: str, tensors: list[Tensor]) -> Any:
    """LLM.int8's two operators with two outlier columns: how many there are depends on values, which fakes lack."""
    A, columns = tensors[0].flatten(0, -2), 2
    if name == "int8_vectorwise_quant":
        outliers = torch.empty(columns, dtype=torch.long, device=A.device)
        return torch.empty_like(A, dtype=torch.int8), torch.empty(len(A), device=A.device), outliers
    assert name == "int8_mixed_scaled_mm", name
    return A.new_empty(len(A), len(tensors[2])), A.new_empty(len(A), columns)
