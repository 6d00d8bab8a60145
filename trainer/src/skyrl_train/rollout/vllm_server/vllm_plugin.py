"""Registers our weight transfer with vLLM (group ``vllm.general_plugins``). Imports nothing heavy."""

import multiprocessing

from skyrl_train.machine.parent_watch import watch_parent

HTTP_BACKEND = "skyrl_http"
"""The backend's name in vLLM's ``--weight-transfer-config``."""


def register() -> None:
    """Register the backend with vLLM, which calls this once in each process."""
    if multiprocessing.parent_process() is not None:  # a server's engine; the server itself may outlive its parent
        watch_parent()
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(
        HTTP_BACKEND, "skyrl_train.rollout.vllm_server.weight_receiver", "HttpWeightTransferEngine"
    )
