"""PPO-style clipped policy gradient with separate bounds."""
