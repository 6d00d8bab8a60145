"""DeepSpeed ZeRO as the trainer uses it: sharding, backward pass, optimizer step, state."""
