"""Where an encoder comes from, so that a bundle with adapters need not hold its weights once more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mtl.components import build
from mtl.config import EncoderConfig
from mtl.errors import BundleError
from mtl.model.adapters import ADAPTERS_FILE
from mtl.model.encoder import Encoder, load_encoder
from mtl.plugins import Plugins


@dataclass(frozen=True)
class Origin:
    """A registered encoder, as it was when it was loaded.

    Attributes:
        name: The registered name.
        sha256: Of its weights and its vocabulary; see :func:`hash_of`.
    """

    name: str
    sha256: str


def hash_of(encoder: Encoder) -> str:
    """Return the sha256 of an encoder's weights without adapters, by name, and of its vocabulary."""
    state = encoder.backbone.state_dict()
    plain = state if encoder.adapters is None else encoder.adapters.part(state)[0]
    digest = hashlib.sha256()
    for name, value in sorted(plain.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    digest.update(json.dumps(sorted(encoder.tokenizer.backend.get_vocab().items())).encode())
    return digest.hexdigest()


def unchanged(encoder: Encoder) -> Origin | None:
    """Return where an encoder with adapters comes from, if its own weights are still those; else ``None``."""
    origin: Origin | None = encoder.origin
    return origin if origin is not None and encoder.adapters is not None and hash_of(encoder) == origin.sha256 else None


def load_base(config: EncoderConfig, base: Mapping[str, str] | None, folder: Path, plugins: Plugins) -> Encoder:
    """Load the encoder of a bundle, with adapters that are not filled yet.

    Args:
        config: How the encoder is used.
        base: Name and sha256 of the registered encoder that the bundle stands on; ``None`` if it holds its own.
        folder: The bundle's.
        plugins: Bring encoders and adapters.

    Raises:
        BundleError: If the registered encoder is missing or is not the one that was trained with.
    """
    if base is None:
        encoder = load_encoder(config, folder / "encoder")
    else:
        name = base["name"]
        if name not in plugins.encoders:
            raise BundleError(
                f"{folder} holds adapters only: it stands on the encoder {name!r}, which no plugin registers. Install the plugin "
                "that brings it, or name it with --plugin. Where it is installed, 'mtl export' writes a bundle that needs none."
            )
        place = plugins.locate_encoder(name)
        encoder = load_encoder(config, place)
        encoder.origin = Origin(name, hash_of(encoder))
        if encoder.origin.sha256 != base["sha256"]:
            raise BundleError(
                f"{folder} stands on the encoder {name!r} with sha256 {base['sha256'][:16]}…, but that in {place} has "
                f"{encoder.origin.sha256[:16]}…: it is not the one that the adapters were trained on. Install that version."
            )
    if config.adapter is not None:
        encoder.put(build(plugins.adapters, config.adapter))
    return encoder


def save_encoder(encoder: Encoder, folder: Path, *, whole: bool) -> Origin | None:
    """Write an encoder, or its adapters alone where the rest is a registered encoder that was not changed.

    Args:
        encoder: The encoder.
        folder: Where to.
        whole: Whether to write the rest too, however that may be.

    Returns:
        The registered encoder that is needed beside it.
    """
    origin = None if whole else unchanged(encoder)
    if origin is None or encoder.adapters is None:
        encoder.save(folder)
    else:
        encoder.adapters.save(folder / ADAPTERS_FILE)
    return origin
