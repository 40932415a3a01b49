"""vidreward: rewards learned from video."""
