"""One training step: rollout, rewards, advantages, update, weight sync, evaluation."""
