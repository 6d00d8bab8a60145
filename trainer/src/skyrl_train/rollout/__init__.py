"""Drawing samples from the policy."""
