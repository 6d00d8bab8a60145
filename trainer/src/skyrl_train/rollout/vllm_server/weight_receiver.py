"""Receives weights in a vLLM server: collects them from HTTP requests and loads them all at once."""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.vllm.model_weights import fill

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.config.weight_transfer import WeightTransferConfig


@dataclass
class HttpInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Empty: every request describes its bytes completely."""


@dataclass
class HttpUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Pieces of tensors, made by http_weights.py."""

    pieces: list[dict[str, Any]]


class HttpWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Leaves the model unchanged until it has received all weights."""

    init_info_cls = HttpInitInfo
    update_info_cls = HttpUpdateInfo
    supports_draft_weight_update = False

    def __init__(
        self, config: "WeightTransferConfig", vllm_config: "VllmConfig", device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._tensors: dict[str, Tensor] = {}
        self._missing: dict[str, int] = {}  # bytes of each tensor that have not arrived yet

    def init_transfer_engine(self, init_info: HttpInitInfo) -> None:
        """Do nothing: HTTP needs no connection."""

    def start_weight_update(self) -> None:
        """Discard the tensors of an update that never finished."""
        self._tensors, self._missing = {}, {}

    def receive_weights(self, update_info: HttpUpdateInfo) -> None:
        """Copy the pieces into their tensors."""
        for piece in update_info.pieces:
            name, data = piece["name"], bytearray(base64.b64decode(piece["data"]))
            if name not in self._tensors:
                tensor = torch.empty(piece["shape"], dtype=getattr(torch, piece["dtype"]))
                self._tensors[name], self._missing[name] = tensor, tensor.nbytes
            start = piece["offset"]
            into = self._tensors[name].view(-1).view(torch.uint8)
            into[start : start + len(data)] = torch.frombuffer(data, dtype=torch.uint8)
            self._missing[name] -= len(data)

    def finish_weight_update(self) -> None:
        """Load the tensors into the model.

        Raises:
            SkyrlError: a tensor is incomplete or fits no parameter, or a parameter got no tensor.
        """
        incomplete = sorted(name for name, missing in self._missing.items() if missing)
        if incomplete:
            raise SkyrlError(f"the weights of {', '.join(incomplete[:5])} are incomplete: send the update again")
        tensors, self._tensors = self._tensors, {}
        fill(self.model, self.vllm_config, tensors.items())

    def shutdown(self) -> None:
        """Do nothing: no resources to release."""
