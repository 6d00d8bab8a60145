"""The processes of a run: their collectives, and how they start, stop and fail together."""
