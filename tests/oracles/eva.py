"""EVA (arXiv 2410.07170): another start of the same function as LoRA."""

from tests.oracles.lora import dense as dense

COUNT = 4_587_520
SETTINGS = [{"rho": 2.0}]
