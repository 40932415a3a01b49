"""Episodes from disk: one file per format, one way in (`open_episodes`)."""
