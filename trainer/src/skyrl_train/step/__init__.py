"""One training step: rollout, rewards, advantages, update, weight sync, evaluation.

Decisions:

- Advantages are estimated after the log-prob passes, because a KL penalty in the reward needs the log-probs of the
  old policy and of the reference model.
- The gradient norm of a term is that of its gradient to log-probs and entropy. The norm over the model's parameters
  would cost one more backward pass for each term.
- Whether a loss may skip sequences without an advantage is measured on the loss, with the batches of the conformance
  suite, not declared.
- A prefetched batch is complete before the weights are synced, so all of it comes from one policy and no result
  depends on timing. No batch is prefetched across a checkpoint, so a checkpoint need not contain one.
- After each weight sync the rollout engine and the trainer compute the log-probs of the same tokens, and the run
  stops if they differ by more than rounding. Before the first step, weights with noise are sent first and must show
  up.
"""
