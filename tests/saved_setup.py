"""What graphs keep for the way back."""

from __future__ import annotations

import torch


def most_saved(run):
    """Return the most bytes that were saved for a backward pass at one time, those of graphs made on the way back too."""
    alive = most = 0

    class Saved:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
            alive += self.bytes
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        run()
    assert alive == 0
    return most
