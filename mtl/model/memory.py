"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import torch

_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may still take on a device; ``None`` where nobody says.

    On a CPU it is what Linux calls available, and no more than is left to the process's group (cgroup v2), as in a container.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MEMORY.is_file():
        return None
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    found = [int(lines["MemAvailable"].split()[0]) * 1024]
    most, used = _GROUP / "memory.max", _GROUP / "memory.current"
    if most.is_file() and (limit := most.read_text().strip()) != "max":
        found.append(max(int(limit) - int(used.read_text()), 0))
    return min(found)
