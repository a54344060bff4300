"""A plugin for tests of grids: it kills the process that runs seed 13."""

from __future__ import annotations

import os
import signal

import mtl


class Deadly:
    """Kills a process outright, as a machine without memory does."""

    @mtl.hookimpl
    def mtl_run_start(self, run):
        if run.config.seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)


DEADLY = Deadly()
