"""Checks a launcher before any job starts: its plugin, CPUs and GPUs.

Otherwise a missing plugin is a traceback, and Ray waits forever for resources that no node has.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import socket
from contextlib import suppress
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.config.job import Job
from harness.device import gpu_count
from harness.errors import reason_of, refuse
from harness.paths import CONF

LOCAL = (None, "local")  # addresses for which Ray starts on this machine


def check_launcher(overrides: list[str], jobs: list[Job]) -> bool:
    """Whether jobs run on this machine. Raises BadInput where the launcher in `overrides` could not run these jobs."""
    settings_of_it = [o for o in overrides if re.match(r"[+~]*hydra[./]|experiment=\w+$", o)]  # others may be swept
    if not settings_of_it:
        return True  # Hydra's own, in this process
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose("config", overrides=settings_of_it, return_hydra_config=True).hydra
    name, module = chosen.runtime.choices["hydra/launcher"], str(chosen.launcher._target_).rpartition(".")[0]
    plugin = None
    with suppress(ModuleNotFoundError):  # its parent package is missing
        plugin = importlib.util.find_spec(module)
    if plugin is None:
        raise refuse("hydra/launcher", "its plugin is not installed", got=name, remedy="pip install '.[sweeps]'")
    settings: Any = OmegaConf.to_container(chosen.launcher, resolve=True)
    if name == "joblib":
        _check_joblib(settings, jobs)
    elif name == "ray":
        _check_ray(settings["ray"])
    elif name == "submitit_slurm" and shutil.which("sbatch") is None:
        remedy = "Submit from a login node, or use hydra/launcher=joblib."
        raise refuse("hydra/launcher", "SLURM is not installed here (no sbatch on PATH)", got=name, remedy=remedy)
    return name != "submitit_slurm" and not (name == "ray" and settings["ray"]["init"]["address"] not in LOCAL)


def _check_joblib(settings: dict[Any, Any], jobs: list[Job]) -> None:
    """Each process keeps one GPU until it ends, so an extra process would only wait."""
    gpus, processes = gpu_count(), settings["n_jobs"]
    alone = any(j.device.startswith("cuda") and not j.share_gpu for j in jobs)
    if alone and gpus and not 1 <= processes <= gpus:
        where, what, expected = "hydra.launcher.n_jobs", "more processes than GPUs", f"an integer >= 1 and <= {gpus}"
        raise refuse(where, what, got=processes, expected=expected, remedy="share_gpu=true allows it.")


def _check_ray(settings: dict[str, Any]) -> None:
    init, request = settings["init"], settings["remote"]
    here = {"CPU": init["num_cpus"] or os.cpu_count() or 1, "GPU": gpu_count()}
    nodes = [here] if init["address"] in LOCAL else ray_nodes(init["address"])
    for key, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if (request.get(key) or 0) > most:
            what, expected = f"no node has as many {kind}s, so Ray would wait forever", f"a number <= {most:g}"
            raise refuse(f"hydra.launcher.ray.remote.{key}", what, got=request[key], expected=expected)


def ray_nodes(address: str) -> list[dict[str, float]]:
    """Resources of a running cluster's nodes. Raises BadInput if no cluster answers."""
    import ray

    where = "hydra.launcher.ray.init.address"
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # Ray itself would try for a quarter of an hour
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            remedy = "Start one: ray start --head."
            raise refuse(where, f"no Ray cluster answers ({reason_of(error)})", got=address, remedy=remedy) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise refuse(where, f"no Ray cluster to use ({reason_of(error)})", got=address) from None
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
