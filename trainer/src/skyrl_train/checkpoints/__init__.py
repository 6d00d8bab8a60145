"""Checkpoints: saving, finding, verifying, resuming, converting and exporting them.

Decisions:

- Checkpoints are written by threads, not by processes: torch and safetensors release the interpreter lock while they
  write, and a process would have to import torch again and receive the state.
- The writing threads of the ranks agree in a separate process group that all files are written. In the training group
  their calls would interleave with those of training.
- A checkpoint for another number of ranks is converted into a hidden copy that exists for seconds while the ranks
  start. Nothing has to be cleaned up or kept in step with the original.
- A checkpoint appears by a rename after every file is hashed and flushed, and is renamed to a hidden name before it
  is deleted: it is complete or invisible.
"""
