"""The Meter of tools/benches/_simulated.py, on small violations and on numbers that can be counted by hand.

Not collected by its name: tests/device/test_device.py runs it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tools.benches._simulated import DEVICE, MixedDevicesError, simulated


def here(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(*shape, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize(
    "ask",
    [
        lambda t: t.sum().item(),
        lambda t: bool((t > 0).all()),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: torch.zeros(3).copy_(t),
        lambda t: t.copy_(torch.zeros(3)),
        lambda t: torch.zeros(3).to(DEVICE),
        lambda t: torch.tensor(2.0, device=DEVICE),
        lambda t: torch.equal(t, t),
        lambda t: torch.linalg.inv(here(3, 3)),
        lambda t: torch.linalg.eigh(here(3, 3)),
    ],
)
def test_a_host_wait_is_listed_with_its_line(ask: Callable[[Tensor], object]) -> None:
    with simulated() as meter:
        t = here(3)
        meter.reset()
        ask(t)
        assert meter.waits.total() >= 1
        assert all("tests/device/meter.py:" in line for line in meter.waits)


def test_work_that_never_waits_lists_nothing() -> None:
    with simulated() as meter:
        t, host = here(3), torch.zeros(3)
        host.to(DEVICE, non_blocking=True)
        (torch.arange(3, device=DEVICE) + t * 2).view(3, 1).clone()
        with torch.inference_mode():
            nn.functional.linear(t, here(2, 3))
        assert dict(meter.waits) == {}


@pytest.mark.parametrize(
    "mix",
    [
        lambda t, host: t + host,
        lambda t, host: host @ t,
        lambda t, host: t[host.long()],
        lambda t, host: torch.cat([t, host]),
        lambda t, host: t.normal_(generator=torch.Generator()),
    ],
)
def test_mixed_devices_raise(mix: Callable[[Tensor, Tensor], object]) -> None:
    with simulated():
        t, host = here(3), torch.ones(3)
        with pytest.raises(MixedDevicesError):
            mix(t, host)


def test_numbers_on_the_host_go_with_anything() -> None:
    with simulated():
        assert (here(3) * torch.tensor(2.0)).device.type == DEVICE


def test_launches_are_kernels_and_no_views() -> None:
    """A step of Ax with its gradient: mm forward, mm for A's gradient, and each elementwise operator once."""
    with simulated() as meter:
        A, x = nn.Parameter(here(4, 3)), here(2, 3)
        meter.reset()
        y = x @ A.T
        assert dict(meter.launches) == {"mm": 1}
        y.view(-1).unsqueeze(0).expand(5, -1)
        assert dict(meter.launches) == {"mm": 1}
        (2 * y).sum().backward()
        assert meter.launches["mm"] == 2
        assert meter.launches["mul"] == 2
        with torch.inference_mode():
            meter.reset()
            nn.functional.linear(x, A)
            assert dict(meter.launches) == {"mm": 1}


def test_fp64_products_are_counted_where_they_run() -> None:
    with simulated() as meter:
        torch.ones(3, 3, dtype=torch.float64) @ torch.ones(3, 3, dtype=torch.float64)
        assert dict(meter.fp64) == {}
        wide = here(3, 3, dtype=torch.float64)
        wide + wide
        assert dict(meter.fp64) == {}
        wide @ wide
        assert dict(meter.fp64) == {"mm (3, 3)": 1}


def test_bytes_are_those_of_live_storages() -> None:
    """Blocks of 512 bytes; views are free, the peak outlasts what was freed, and saved activations are held."""
    with simulated() as meter:
        start = meter.live
        a = here(1024)
        assert meter.live - start == 4096
        view, small = a.view(2, 512)[0], here(1)
        assert meter.live - start == 4096 + 512
        del a, small
        assert meter.live - start == 4096
        del view
        assert meter.live == start
        assert meter.peak - start == 4096 + 512
        meter.reset()
        assert meter.peak == meter.live == start
        w = nn.Parameter(here(128, 128))
        loss = (here(128, 128) @ w).exp().sum()
        held = meter.live - start
        assert held == 3 * 65536 + 512  # w, the input (for w's gradient), exp's result (for its own), and the loss
        loss.backward()
        del loss
        assert meter.live - start == 2 * 65536  # w and its gradient
