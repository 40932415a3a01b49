"""From scores to rewards, and from rewards to policies."""
