"""One encoder, many heads, and both on disk."""
