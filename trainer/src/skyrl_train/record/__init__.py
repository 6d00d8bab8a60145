"""What a run tells the outside: trackers, run folder, observers."""
