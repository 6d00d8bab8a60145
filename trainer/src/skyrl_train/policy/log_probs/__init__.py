"""Log-probs and entropy of tokens, computed in tiles so that the logits never exist as one tensor."""
