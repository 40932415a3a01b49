"""Blocks that two files or more use."""
