"""Rewards computed in worker processes, each with a deadline.

Decisions:

- Workers are fresh interpreters, not forks of a process that holds torch and threads.
- A sample is blamed for the death of its worker only after it has killed two workers.
- A thread drives the workers while other samples are decoded. The decoding process is busy for seconds, and a
  reward's deadline must not run while nobody reads its worker's answers. Rewards are stored by sample, so nothing
  depends on the order in which they finish.
"""
