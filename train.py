"""Train one adapter (or, with -m, a grid of them), evaluate it, and keep the run under runs/. See --help."""

import sys

import hydra
from omegaconf import DictConfig

from harness.cli.preflight import preflight
from harness.cli.utf8 import use_utf8
from harness.cli.words import for_hydra
from harness.config.schema import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    from harness.cli.task import launch

    return launch(cfg)


if __name__ == "__main__":
    use_utf8()
    sys.argv[1:] = for_hydra(sys.argv[1:])
    with preflight(sys.argv[1:]):
        main()
