"""Policy gradient with an exact entropy bonus."""
