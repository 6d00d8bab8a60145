"""Public names for scripts that define losses."""
