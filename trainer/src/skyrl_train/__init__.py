"""Trains language models with any installed policy loss."""
