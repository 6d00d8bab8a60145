"""The process on this machine: threads, memory, garbage collection, what libraries print."""
