"""The command-line programs of jaxweights: `python -m launch.run --help`."""
