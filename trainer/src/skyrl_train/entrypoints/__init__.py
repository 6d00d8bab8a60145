"""The entry point of training: command line, plan, and the checks before torch is imported."""
