"""LoRA-family adapters as plain forward hooks: attach, train, save, detach, load.

    import adapters as ad
    ad.attach(model, ad.LoRAConfig(r=8, alpha=16))
    optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-4, weight_decay=0.1))
    ad.save(model, "adapter.safetensors"); ad.detach(model); ad.load(model, "adapter.safetensors")

`ad.VARIANTS` maps every variant's name to its class; each class's config is also an attribute of this module.
Names are imported when they are first used: `import adapters` alone does not load torch.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers only: at run time every variant's config is found, listed here or not
    from adapters._attachment import Attachment as Attachment
    from adapters._attachment import attachment as attachment
    from adapters._checkpoint import config_fields as config_fields
    from adapters._checkpoint import load as load
    from adapters._checkpoint import save as save
    from adapters._contract import DTYPES as DTYPES
    from adapters._contract import Calibration as Calibration
    from adapters._contract import Config as Config
    from adapters._contract import Variant as Variant
    from adapters._errors import NOTHING as NOTHING
    from adapters._errors import AdapterError as AdapterError
    from adapters._errors import problem as problem
    from adapters._files import atomic_file as atomic_file
    from adapters._hooks import attach as attach
    from adapters._hooks import detach as detach
    from adapters._hooks import frozen as frozen
    from adapters._hooks import parameter_groups as parameter_groups
    from adapters._patterns import harmless as harmless
    from adapters._peft import export_peft as export_peft
    from adapters._peft import import_peft as import_peft
    from adapters._registry import VARIANTS as VARIANTS
    from adapters._registry import parameter_count as parameter_count
    from adapters._registry import variant_has_sites as variant_has_sites
    from adapters._weights import forbid_cpu_packing as forbid_cpu_packing
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
    from adapters.gralora import GraLoRAConfig as GraLoRAConfig
    from adapters.hira import HiRAConfig as HiRAConfig
    from adapters.hra import HRAConfig as HRAConfig
    from adapters.ia3 import IA3Config as IA3Config
    from adapters.ia3_ff import IA3FFConfig as IA3FFConfig
    from adapters.lokr import LoKrConfig as LoKrConfig
    from adapters.lora import LoRAConfig as LoRAConfig
    from adapters.lora_xs import LoRAXSConfig as LoRAXSConfig
    from adapters.miss import MiSSConfig as MiSSConfig
    from adapters.none import NoneConfig as NoneConfig
    from adapters.oft import OFTConfig as OFTConfig
    from adapters.pissa import PiSSAConfig as PiSSAConfig
    from adapters.road import RoadConfig as RoadConfig
    from adapters.shira import SHiRAConfig as SHiRAConfig
    from adapters.tinylora import TinyLoRAConfig as TinyLoRAConfig
    from adapters.vera import VeRAConfig as VeRAConfig

_HOMES = {
    "VARIANTS": "_registry",
    "AdapterError": "_errors",
    "Attachment": "_attachment",
    "Calibration": "_contract",
    "Config": "_contract",
    "DTYPES": "_contract",
    "NOTHING": "_errors",
    "Variant": "_contract",
    "atomic_file": "_files",
    "attach": "_hooks",
    "attachment": "_attachment",
    "config_fields": "_checkpoint",
    "detach": "_hooks",
    "export_peft": "_peft",
    "frozen": "_hooks",
    "forbid_cpu_packing": "_weights",
    "harmless": "_patterns",
    "import_peft": "_peft",
    "load": "_checkpoint",
    "parameter_count": "_registry",
    "parameter_groups": "_hooks",
    "problem": "_errors",
    "save": "_checkpoint",
    "variant_has_sites": "_registry",
}


def __getattr__(name: str) -> Any:
    """A public name from its module, or a variant's config class. Raises AttributeError.

    Its type lets a checker accept the config of a variant that is not listed above.
    """
    if name in _HOMES:
        return getattr(importlib.import_module(f"adapters.{_HOMES[name]}"), name)
    if name.startswith("_"):  # what imports and copying ask of every module
        raise AttributeError(f"module 'adapters' has no attribute {name!r}")
    if name in (configs := _configs()):
        return configs[name]
    names = {known.lower(): known for known in [*_HOMES, *configs]}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {names[near[0]]!r}?" if near else ""
    raise AttributeError(f"module 'adapters' has no attribute {name!r}.{hint}")


def _configs() -> dict[str, Any]:
    return {variant.Config.__name__: variant.Config for variant in __getattr__("VARIANTS").values()}


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_configs()])
