"""Runs in a vLLM server: weights that arrive in HTTP requests are collected, and taken over all at once."""

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
    """Nothing to agree on: every request says all about its bytes."""


@dataclass
class HttpUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Pieces of tensors; server_weights.py makes them."""

    pieces: list[dict[str, Any]]


class HttpWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Keeps the model as it is until the whole of the new weights is there."""

    init_info_cls = HttpInitInfo
    update_info_cls = HttpUpdateInfo
    supports_draft_weight_update = False

    def __init__(
        self, config: "WeightTransferConfig", vllm_config: "VllmConfig", device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._tensors: dict[str, Tensor] = {}
        self._missing: dict[str, int] = {}  # bytes of each tensor that have not come yet

    def init_transfer_engine(self, init_info: HttpInitInfo) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Forget what an update that never finished has left."""
        self._tensors, self._missing = {}, {}

    def receive_weights(self, update_info: HttpUpdateInfo) -> None:
        """Put pieces where they belong."""
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
        """Load them into the model.

        Raises:
            SkyrlError: a tensor is incomplete, or has no place in the model, or the model has parameters without one.
        """
        incomplete = sorted(name for name, missing in self._missing.items() if missing)
        if incomplete:
            raise SkyrlError(f"the weights of {', '.join(incomplete[:5])} have not arrived whole")
        tensors, self._tensors = self._tensors, {}
        fill(self.model, self.vllm_config, tensors.items())

    def shutdown(self) -> None:
        """Nothing to release."""
