"""A loss package as a folder: its metadata, its wheel, and each of its losses against the rules."""
