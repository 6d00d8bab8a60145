"""The process on this machine: threads, memory, garbage collection, what libraries print.

Decisions:

- The number of OpenMP threads is measured at start and falls back to one when a step stalls: two threads on busy
  cores are many times slower than one. With `trainer.threads: auto` two runs may differ in rounding; set a number
  where a resumed run must be equal bit for bit.
- Garbage collection is paused while libraries are imported, and their objects are frozen: modules are never garbage,
  and scanning them takes a third of a short run's CPU time.
"""
