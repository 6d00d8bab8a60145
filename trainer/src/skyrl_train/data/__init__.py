"""The prompts of a run: rows from files, hubs or environments, by position and as token ids."""
