"""Sampling from the policy: the protocol of rollout engines, seeds, and the engines.

Decisions:

- Seeds are a function of (run seed, step, prompt, sample), never of generator state or of the number of ranks.
- On ZeRO-3 the in-process sampler holds a complete copy of the model, gathered parameter by parameter after each
  step; on lower stages it samples with the trained module itself.
- Weights travel to servers in HTTP requests, not over gloo or a shared folder: a request is answered, refused or
  lost, works between machines and needs no port of the trainer. A server applies them all at once at the end and
  names them; each sample carries the name of the weights that produced it.
- A server that was lost receives its weights from all ranks together, inside the call that lost it: on ZeRO-3 no
  single rank holds them.
"""
