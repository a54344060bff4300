"""Writing the beginning of a plugin: a package that passes its own tests at once."""
