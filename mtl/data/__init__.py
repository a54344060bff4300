"""From files to batches: rows, tokenised features, batches."""
