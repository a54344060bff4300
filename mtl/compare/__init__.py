"""What a comparison says: figures, differences and how sure they are."""
