"""LoRA-family adapters as plain forward hooks: attach, train, save, detach, load.

    import adapters as ad
    ad.attach(model, ad.LoRAConfig(r=8, alpha=16))
    optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-4, weight_decay=0.1))
    ad.save(model, "adapter.safetensors"); ad.detach(model); ad.load(model, "adapter.safetensors")

`ad.VARIANTS` maps every variant's name to its class; each class's config is also an attribute of this module.
"""

import difflib
from typing import TYPE_CHECKING, Any

from adapters._checkpoint import load, save
from adapters._errors import AdapterError
from adapters._hooks import Attachment, attach, attachment, detach, parameter_groups
from adapters._peft import export_peft, import_peft
from adapters._registry import VARIANTS, parameter_count

if TYPE_CHECKING:  # for type checkers only: at run time every variant's config is found, listed here or not
    from adapters.antipasto import AntiPaSTOConfig as AntiPaSTOConfig
    from adapters.antipasto_ablate import AntiPaSTOAblateConfig as AntiPaSTOAblateConfig
    from adapters.antipasto_arrow import AntiPaSTOArrowConfig as AntiPaSTOArrowConfig
    from adapters.antipasto_asvd import AntiPaSTOASVDConfig as AntiPaSTOASVDConfig
    from adapters.antipasto_corda import AntiPaSTOCorDAConfig as AntiPaSTOCorDAConfig
    from adapters.antipasto_dplr import AntiPaSTODPLRConfig as AntiPaSTODPLRConfig
    from adapters.antipasto_rot import AntiPaSTORotConfig as AntiPaSTORotConfig
    from adapters.delora import DeLoRAConfig as DeLoRAConfig
    from adapters.dora import DoRAConfig as DoRAConfig
    from adapters.eva import EVAConfig as EVAConfig
    from adapters.full import FullConfig as FullConfig
    from adapters.hra import HRAConfig as HRAConfig
    from adapters.ia3 import IA3Config as IA3Config
    from adapters.ia3_ff import IA3FFConfig as IA3FFConfig
    from adapters.lora import LoRAConfig as LoRAConfig
    from adapters.lora_xs import LoRAXSConfig as LoRAXSConfig
    from adapters.none import NoneConfig as NoneConfig
    from adapters.pissa import PiSSAConfig as PiSSAConfig
    from adapters.road import RoadConfig as RoadConfig

_CONFIGS = {variant.Config.__name__: variant.Config for variant in VARIANTS.values()}
globals().update(_CONFIGS)

__all__ = [
    "VARIANTS",
    "AdapterError",
    "Attachment",
    "attach",
    "attachment",
    "detach",
    "export_peft",
    "import_peft",
    "load",
    "parameter_count",
    "parameter_groups",
    "save",
]
__all__ += [*_CONFIGS]


def __getattr__(name: str) -> Any:
    """Called for unknown names only. Its type lets a checker accept the config of a variant not listed above."""
    names = {known.lower(): known for known in __all__}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {names[near[0]]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
