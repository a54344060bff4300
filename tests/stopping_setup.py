"""A plugin that stops a run after a step, for tests of what goes on from there."""

from __future__ import annotations

import mtl


class Stopper:
    """Stops a run after step ``stop_at``; 0 lets it run to the end."""

    stop_at = 0

    @mtl.hookimpl
    def mtl_step_end(self, step):
        if step == self.stop_at:
            raise KeyboardInterrupt


STOPPER = Stopper()
PLUGIN = f"{__name__}:STOPPER"
