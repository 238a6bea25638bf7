"""LoRA-family adapters as plain forward hooks: attach, train, save, detach, load.

    import adapters as ad
    ad.attach(model, ad.LoRAConfig(r=8, alpha=16))
    optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-4, weight_decay=0.1))
    ad.save(model, "adapter.safetensors"); ad.detach(model); ad.load(model, "adapter.safetensors")

`ad.VARIANTS` maps every variant's name to its class; each class's config is also an attribute of this module.
Names are imported when they are first used: `import adapters` alone does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "VARIANTS": "_registry",
    "AdapterError": "_errors",
    "Attachment": "_hooks",
    "Calibration": "_contract",
    "Config": "_contract",
    "DTYPES": "_contract",
    "NOTHING": "_errors",
    "Variant": "_contract",
    "attach": "_hooks",
    "attachment": "_hooks",
    "config_fields": "_checkpoint",
    "detach": "_hooks",
    "export_peft": "_peft",
    "forbid_cpu_packing": "_weights",
    "import_peft": "_peft",
    "load": "_checkpoint",
    "parameter_count": "_registry",
    "parameter_groups": "_hooks",
    "problem": "_errors",
    "save": "_checkpoint",
    "variant_has_sites": "_registry",
}


def __getattr__(name: str) -> Any:
    """A public name from its module, or a variant's config class. Raises AttributeError."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"adapters.{_HOMES[name]}"), name)
    if name.endswith("Config"):
        for variant in __getattr__("VARIANTS").values():
            if variant.Config.__name__ == name:
                return variant.Config
    raise AttributeError(f"module 'adapters' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *(v.Config.__name__ for v in __getattr__("VARIANTS").values())])
