"""The model in training: token sequences in, log-probabilities and entropy of their responses out.

Decisions:

- The policy returns log-probs and entropy as one tensor. ZeRO-3 records modules in the order in which gradients reach
  their outputs; with two outputs, a micro-batch that uses only one leaves its rank permanently out of step.
- All ranks run the same autograd nodes for every batch. ZeRO-2 reduces gradients in the order in which they arrive; a
  layer that chose its kind of node by the number of rows would give wrong gradients without an error.
- Products, norms and rotary positions are those of torch and transformers. Faster replacements were measured on a CPU
  and removed: each was worth less than 5 % of a step (docs/performance.md).
- Logits are computed twice rather than kept, except for a bounded part: their memory limits the batch, and the gradient
  cannot be computed in the forward pass, as fused losses do, because any loss may follow.
- A prompt passes through the model once per micro-batch, and its samples follow it in one row. This is used only where
  it is cheaper, with full attention, and after a trial gives the same hidden states.
- Adapters are injected into the model (peft), not wrapped around it, so all other names stay the same. An adapter of
  the output embedding is extra columns of hidden states and weight; bfloat16 would round a merged weight.
- Models that change their logits after the output embedding (soft-capping, scaling) are refused when they are loaded,
  because log-probs are computed from hidden states and the embedding.
- Models whose rotary positions depend on the longest sequence of a batch (`dynamic`, `longrope`) do not share prompts
  and are not decoded directly: a token's log-prob would depend on its neighbours.
"""
