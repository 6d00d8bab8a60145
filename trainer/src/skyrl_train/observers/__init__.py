"""Code of others that watches a run: told of its events in plain data, never of tensors."""
