"""Nested state on disk: one safetensors file, whole or not there, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mtl.errors import CheckpointError
from mtl.files import write_atomic

_TENSOR = "__tensor__"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values to one file, atomically.

    Raises:
        CheckpointError: If the file cannot be written.
        TypeError: If something in the state is neither a tensor nor a JSON value.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_flatten(state, "", tensors, {}))
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata={"state": text}))


def load_state(path: Path) -> Any:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: If the file is torn or not one of ours; names it.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  # not a mapping
        return _unflatten(json.loads(metadata["state"]), tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is torn or is not a checkpoint: {error}") from error


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor], seen: dict[tuple[int, Any], str]) -> Any:
    """Replace tensors by references. Tensors that share memory, as tied weights do, are kept once."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), (tuple(value.shape), value.stride(), value.dtype))
        if value.numel() == 0 or key not in seen:
            seen[key] = path
            kept = value.detach().cpu().contiguous()
            storage = (kept.untyped_storage().data_ptr(), None)
            tensors[path] = kept.clone() if storage in seen else kept  # safetensors refuses views of one another
            seen[storage] = path
        return {_TENSOR: seen[key]}
    if isinstance(value, Mapping):
        items = [[key, _flatten(item, f"{path}/{key}", tensors, seen)] for key, item in value.items()]
        return {"__items__": items}
    if isinstance(value, list | tuple):
        return [_flatten(item, f"{path}/{index}", tensors, seen) for index, item in enumerate(value)]
    return value


def _unflatten(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict) and _TENSOR in value:
        return tensors[value[_TENSOR]]
    if isinstance(value, dict):
        return {key: _unflatten(item, tensors) for key, item in value["__items__"]}
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    return value
