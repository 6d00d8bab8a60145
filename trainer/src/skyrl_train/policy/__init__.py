"""The model in training, as log-probabilities."""
