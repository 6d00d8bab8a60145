"""Prompt sharing: a prompt with several samples is computed once, in one row without padding."""
