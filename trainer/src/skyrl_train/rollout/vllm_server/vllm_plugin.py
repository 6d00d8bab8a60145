"""What vLLM loads into each of its processes (group ``vllm.general_plugins``): our way for weights. It is light."""

HTTP_BACKEND = "skyrl_http"
"""Its name in vLLM's ``--weight-transfer-config``."""


def register() -> None:
    """Make the backend known to vLLM, which calls this once in each process."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(
        HTTP_BACKEND, "skyrl_train.rollout.vllm_server.weight_receiver", "HttpWeightTransferEngine"
    )
