"""Few-shot transfer to tasks that were not trained."""
