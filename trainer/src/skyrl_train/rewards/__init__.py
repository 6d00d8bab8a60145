"""Rewards computed in worker processes, each with a deadline."""
