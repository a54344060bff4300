"""Adapters that the library `peft` makes. Its one importer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn

from mtl.errors import EncoderError, MissingExtraError
from mtl.model.adapters import Adapter


@dataclass
class PeftAdapter(Adapter):
    """A method of `peft` (Mangrulkar et al. 2022, https://github.com/huggingface/peft), put into the encoder in place."""

    @abstractmethod
    def configure(self, peft: Any, **options: Any) -> Any:
        """Return the configuration of the method.

        Args:
            peft: The library.
            options: What every configuration is given: the parts of a layer, if the user has named them.
        """

    def put(self, backbone: nn.Module) -> None:
        try:
            import peft
        except ImportError as error:
            raise MissingExtraError("peft", extra="lora") from error
        options = {"target_modules": list(self.modules)} if self.modules else {}
        try:
            peft.inject_adapter_in_model(self.configure(peft, **options), backbone)
        except ValueError as error:
            what, detail = type(backbone).__name__, " ".join(str(error).split()).partition(". ")[0].rstrip(".")
            raise EncoderError(
                f"encoder.adapter: peft cannot put {type(self).__name__} into a {what}: {detail}. Name the parts of its layers "
                "that are to get it under encoder.adapter.modules, for example [query, value]."
            ) from error

    def merged(self, module: Any) -> nn.Module:
        module.merge(safe_merge=True)
        plain: nn.Module = module.get_base_layer()
        return plain
