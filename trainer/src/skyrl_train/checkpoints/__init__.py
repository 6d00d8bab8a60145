"""Checkpoints: written, found, verified, resumed from, converted and exported."""
