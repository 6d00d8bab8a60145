"""Rewards computed in worker processes, each with a deadline.

Decisions:

- Workers are fresh interpreters, not forks of a process that holds torch and threads.
- A sample is blamed for the death of its worker only after two workers have died on it.
- A thread drives the workers while other samples are generated. The generating thread is busy for seconds, and the
  deadline of a reward must not expire because no thread reads the worker's results. Rewards are stored by sample, so
  nothing depends on the order in which they finish.
"""
