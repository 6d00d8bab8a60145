"""Writes the package of a new policy loss: its names, its files, and a folder that is complete or absent."""
