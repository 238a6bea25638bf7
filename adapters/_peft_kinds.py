"""The file format of one of PEFT's adapter types, for the variant here that computes the same function.

`adapters/_peft_<variant>.py` defines `KIND` and is found by its name. A variant without such a file that is linear in x
is written as plain LoRA. Only `_peft.py` imports these files: they exchange adapters and cannot change a result.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters._errors import AdapterError, problem

Tensors = dict[str, Tensor]
Fields = dict[str, Any]  # of adapter_config.json
CONFIG = "adapter_config.json"
FILE = ""  # stands for a layer's name at tensors that PEFT keeps once per file, such as VeRA's projections


def _all_tensors_to_each_layer(layers: dict[str, Tensors], of_file: Tensors, config: Fields) -> dict[str, Tensors]:
    return {name: tensors | of_file for name, tensors in layers.items()}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One variant's format in PEFT's folders. Tensor and field names are PEFT's (0.21) unless marked as ours.

    The format
    peft_type, flags: what the config says; flags separate kinds that share a peft_type.
    tensors, optional: names of a layer's tensors: always there; there or not.
    integers: those among them that hold indices. aliases: other names for them, from other versions of PEFT.
    of_file: regex of the names of tensors that are kept once per file.
    reads, ignores: fields that `settings` and this module read; fields that a trained adapter does not depend on. Any
        other field is accepted only when it says "off".

    Export, in fp64
    write: sites by layer name → tensors by layer name, those of the file under the name FILE.
    fields: our config, ranks by layer name, target_modules → fields besides the common ones.
    on_conv1d: whether PEFT's layer of this kind works on GPT-2's Conv1D.
    can_write: sites by layer name → False where PEFT has no form for them: they are written as plain LoRA, if linear.

    Import
    settings: the file's config → fields of our config. Raises AdapterError on a value that is not supported.
    fits: whether a layer's tensors are of this kind, where names do not tell.
    rank: r of a layer from its tensors, where layers may differ in r (`rank_pattern`); None: they do not tell, and the
        config does.
    spread: gives each layer (in the model's order) its part of the file's tensors; the default gives all to each.
    basis: our config, a layer's tensors, o, i → our frozen tensors `basis_*` (those of `stored_basis`), where the file
        holds them. Raises AdapterError on indices out of range.
    read: our site, a layer's tensors → our trainable tensors `lora_*`.
    """

    peft_type: str
    tensors: tuple[str, ...]
    write: Callable[[Mapping[str, Any]], dict[str, Tensors]]
    read: Callable[[Any, Tensors], Tensors]
    fields: Callable[[Any, dict[str, int], list[str] | str], Fields]
    settings: Callable[[Fields], Fields] = lambda config: {}
    flags: Mapping[str, Any] = field(default_factory=dict)
    on_conv1d: bool = False
    optional: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    of_file: str | None = None
    reads: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    can_write: Callable[[Mapping[str, Any]], bool] = lambda sites: True
    fits: Callable[[Tensors], bool] = lambda tensors: True
    rank: Callable[[Tensors], int | None] | None = None
    spread: Callable[[dict[str, Tensors], Tensors, Fields], dict[str, Tensors]] = _all_tensors_to_each_layer
    basis: Callable[[Any, Tensors, int, int], Tensors] = lambda cfg, tensors, o, i: {}

    def holds(self, tensors: Tensors) -> bool:
        """Whether a layer with these tensors can be one of this kind."""
        names = tensors.keys()
        return set(self.tensors) <= names <= {*self.tensors, *self.optional} and self.fits(tensors)


def discover_kinds(variants: Iterable[str]) -> dict[str, Kind]:
    """variant → KIND of adapters/_peft_<variant>.py, for the variants that have one."""
    names = [name for name in variants if importlib.util.find_spec(f"adapters._peft_{name}") is not None]
    return {name: importlib.import_module(f"adapters._peft_{name}").KIND for name in names}


def adapter_folder(folder: Path) -> Path:
    """The folder itself, or the one in it that PEFT saved an adapter to that is not called `default`."""
    named = sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
    named = [p for p in named if not p.name.startswith("checkpoint-")]  # transformers.Trainer's
    if len(named) == 1 and not (folder / CONFIG).exists():
        return named[0]
    if named:
        there = ", ".join(map(str, named)) + (" beside the default" if (folder / CONFIG).exists() else "")
        raise AdapterError(
            problem(str(folder), f"several adapters ({there})", remedy="Give the folder of one of them.")
        )
    return folder
