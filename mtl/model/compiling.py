"""Passes of the encoder compiled by ``torch.compile``; passes in parts run as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtl.errors import EncoderError

_BACKEND = "inductor"


class Compiled(nn.Module):
    """Compiles a backbone in place: its parameters keep their names. It is compiled when it is first run.

    Args:
        backbone: The ``AutoModel``.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        if torch.are_deterministic_algorithms_enabled():  # the compiler too
            torch.use_deterministic_algorithms(True, warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
        backbone.compile(backend=_BACKEND, dynamic=True)  # batches have hundreds of shapes

    def forward(self, mask: Tensor) -> None:
        """Stand for a pass over ``mask``, ``[sequences, tokens]``: hooks inside what is compiled are not called reliably."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what is to be done if compiling fails.

        Raises:
            EncoderError: With the compiler's first line.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            yield
        except (TorchDynamoException, ImportError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            detail = (lines or [type(error).__name__])[0].rstrip(".")
            raise EncoderError(
                f"encoder.compile: the encoder cannot be compiled ({detail:.200}). torch.compile needs a C++ compiler such as "
                "g++ on a CPU, and Triton on a GPU. Install it, or set encoder.compile to false."
            ) from error

    @contextmanager
    def in_parts(self) -> Iterator[None]:
        """Run the layers as they are, where some of them are to be left out."""
        with torch.compiler.set_stance("force_eager"):
            yield
