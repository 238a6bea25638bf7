"""Names of a model's modules without the wrappers around them: torch.compile, DataParallel, DDP, FSDP and the like.

A wrapper adds a level to every name (`_orig_mod.`, `module.`) and changes no layer. This library uses the names of the
bare model everywhere, so an adapter moves between a wrapped model and a bare one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

CLASSES = (nn.DataParallel, DistributedDataParallel, AveragedModel)  # any other model may have a part named `module`
# What torch.compile, activation checkpointing and FSDP call the module they wrap.
ATTRIBUTES = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def bare(model: nn.Module) -> nn.Module:
    """The model inside its wrappers; the model itself when there are none."""
    while (inner := _wrapped(model)) is not None:
        model = inner
    return model


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, CLASSES):
        return model.module
    return next((model._modules[a] for a in ATTRIBUTES if a in model._modules), None)


def named_modules(
    model: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()`, with what is inside a wrapper in the wrapper's place, at any depth."""
    model, seen = bare(model), set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield prefix, model
    for name, child in model.named_children():
        yield from named_modules(child, f"{prefix}.{name}" if prefix else name, seen)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """`dict(model.named_parameters())` by the bare model's names; a tied parameter once, under its first name."""
    parameters: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in named_modules(model):
        for key, p in module._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                parameters[f"{name}.{key}" if name else key] = p
    return parameters
