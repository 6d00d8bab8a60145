"""Advantage estimators: they turn the rewards of a step into advantages."""
