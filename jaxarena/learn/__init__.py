"""Layer 4, learning: distributions, networks, losses, the collector and PPO. Knows the env contract only."""
