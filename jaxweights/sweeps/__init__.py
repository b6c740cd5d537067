"""Sweeps: a grid or a random search of recipes of zoos, or of settings of a generator, each with several seeds.

`settings` is the section of a config, `plan` what it asks for, `bulk` and `models` train, `study` keeps what is done.
"""
