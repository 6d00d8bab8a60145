"""The record of a run: trackers, run folder, observers, progress."""
