"""Experiment configs; each file's `get_config` returns a complete `ml_collections.ConfigDict`."""
