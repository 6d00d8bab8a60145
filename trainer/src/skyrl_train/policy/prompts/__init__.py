"""Prompts that several samples share: computed once, in one row of tokens without padding."""
