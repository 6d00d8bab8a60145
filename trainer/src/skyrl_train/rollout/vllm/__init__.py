"""The rollout engine vllm, in the trainer's process."""
