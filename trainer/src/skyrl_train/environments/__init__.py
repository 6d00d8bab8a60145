"""Environments: problems and the rewards of answers."""
