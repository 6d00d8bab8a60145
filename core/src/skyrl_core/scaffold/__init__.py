"""Writes the package of a new policy loss: its names, the text of its files, a folder that is complete or not there."""
