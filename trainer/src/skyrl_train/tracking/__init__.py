"""The record of a run: metrics, samples, run folder, report, and the trackers that receive the metrics."""
