"""Subcommands that the trainer adds to `skyrl`."""
