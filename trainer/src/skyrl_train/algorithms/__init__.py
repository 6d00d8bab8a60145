"""Public names for scripts that define their own losses."""
