"""User code that is notified of the events of a run, with plain data and never with tensors."""
