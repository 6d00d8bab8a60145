"""The rollout engine vllm_server: vLLM servers in other processes or on other machines."""
