"""The processes of a run: their collectives, and how they start, stop and fail together.

Decisions:

- Ranks agree on a stop with one all-reduce of one number before each step. They receive a signal at different times;
  a rank that stopped one step early would leave the others waiting in a collective.
- A failing rank's reason travels through the launcher's key-value store, not through a collective: the other ranks
  may be inside another collective, and the store outlives the rank. The rank prints its reason, posts it, and only
  then closes its connections, so the root cause comes first in the log.
- A watchdog thread in each rank observes the store, the signals and the neighbouring processes. Python runs signal
  handlers only between two bytecodes of the main thread, and that thread may be waiting inside NCCL for a rank that
  is gone; then the watchdog records how the run ended and exits the process.
- A rank that a launcher started runs its exit handlers and then leaves with `os._exit`. gloo's threads outlive the
  process group, and a thread that releases a tensor during interpreter shutdown calls std::terminate.
"""
