"""The rollout engine `hf`, which generates with the trained model in the trainer's process."""
