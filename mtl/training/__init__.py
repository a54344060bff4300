"""The one loop, what it draws, and how it survives being killed."""
