"""IA3 on outputs in PEFT's folders: a gate l = 1 + δ of shape (o, 1), no feedforward_modules."""

from __future__ import annotations

from adapters._peft_kinds import Kind

KIND = Kind(
    peft_type="IA3",
    on_conv1d=True,
    reads=("fan_in_fan_out",),
    tensors=("ia3_l",),
    ignores=("init_ia3_weights", "feedforward_modules"),  # the gate's shape tells inputs from outputs
    write=lambda sites: {name: {"ia3_l": 1 + site.lora_delta.unsqueeze(1)} for name, site in sites.items()},
    fields=lambda cfg, ranks, targets: {"feedforward_modules": []},
    fits=lambda tensors: tensors["ia3_l"].shape[1:] == (1,),
    read=lambda site, tensors: {"lora_delta": tensors["ia3_l"].double().squeeze(1) - 1},
)
