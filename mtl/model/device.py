"""Where a model is."""

from __future__ import annotations

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
