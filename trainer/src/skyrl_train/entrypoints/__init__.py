"""Programs that start training."""
