"""DeepSpeed ZeRO as the trainer uses it: sharding, backward pass, optimizer step, state.

Decisions:

- DeepSpeed's shared-memory all-reduce is disabled on CPU: it would be compiled for minutes at the first start, with a
  compiler that the machine may lack. gloo does the same work.
- accelerate's CPU flag is removed from the environment. With it accelerate trains with DDP instead of DeepSpeed,
  silently; the trainer refuses anything but DeepSpeed.
- A snapshot is made by pickling everything except the memory of tensors, which is what torch.save does. So it covers
  whatever DeepSpeed puts into a file, shared memory stays shared, and the file is identical to the last byte.
- A reference model is complete on every rank, unless adapters are trained: then the adapters are multiplied by zero.
  Leaving them out would break ZeRO-3, which expects modules in the recorded order.
"""
