"""A grid: its cells, where they are run, and how they get on."""
