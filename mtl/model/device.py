"""Where a model is computed, and with which products of matrices there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtl.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Return the device that an experiment names; ``auto`` takes a GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        what = "is not there" if name.partition(":")[0] in ("cuda", "mps", "xpu") else "is no device"
        raise ConfigError(f"device: {name!r} {what}. Use auto, cpu, cuda or cuda:0.{f' ({why}.)' * (len(why) < 100)}") from error
    return device


@contextmanager
def multiplying(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Multiply float32 matrices in TensorFloat-32, or in full precision, on a CUDA device; elsewhere nothing is changed.

    Args:
        device: Where the model is.
        tf32: Whether factors are rounded to 10 bits of mantissa; sums are in float32.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
