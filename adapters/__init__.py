"""LoRA-family adapters as plain forward hooks: attach, train, save, detach, load.

    import adapters as ad
    ad.attach(model, ad.LoRAConfig(r=8, alpha=16))
    optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-4, weight_decay=0.1))
    ad.save(model, "adapter.safetensors"); ad.detach(model); ad.load(model, "adapter.safetensors")

`ad.VARIANTS` maps every variant's name to its class; each class's config is also an attribute of this module.
"""

from adapters._checkpoint import load, save
from adapters._errors import AdapterError
from adapters._hooks import Attachment, attach, attachment, detach, frozen, parameter_groups
from adapters._peft import export_peft, import_peft
from adapters._registry import VARIANTS, parameter_count

globals().update({variant.Config.__name__: variant.Config for variant in VARIANTS.values()})

__all__ = [
    "VARIANTS",
    "AdapterError",
    "Attachment",
    "attach",
    "attachment",
    "detach",
    "export_peft",
    "frozen",
    "import_peft",
    "load",
    "parameter_count",
    "parameter_groups",
    "save",
    *(variant.Config.__name__ for variant in VARIANTS.values()),
]
