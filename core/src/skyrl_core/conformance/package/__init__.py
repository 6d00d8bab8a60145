"""Checks a loss package in a folder: its metadata, its wheel, and each of its losses."""
