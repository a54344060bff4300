"""Python that has its slow imports behind it: commands of a page are forked from it, each in a process of its own.

The page runs a dozen commands; without this most of the test's time would be the import of torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from importlib import import_module

_IMPORTS = (
    "mtl.cli",
    "mtl.run",
    "mtl.model.bundle",
    "mtl_plugins",
    "mtl_tasks",
    "datasets",
    "matplotlib.pyplot",
    "rich.table",
    "scipy.stats",
    "sklearn.metrics",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
)


def ask(path: str, request: list[str]) -> int:
    """Hand the place of this process over to the server at ``path``, and end as the command ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        about = json.dumps({"cwd": os.getcwd(), "env": dict(os.environ), "request": request}).encode()
        socket.send_fds(connection, [about], [0, 1, 2])
        return int(connection.recv(16) or b"1")


def serve(path: str) -> None:
    """Wait for commands at the socket ``path``."""
    for module in _IMPORTS:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            about, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                code = _run(json.loads(about), descriptors)
                with contextlib.suppress(OSError):
                    connection.sendall(str(code).encode())
                os._exit(code)
            for descriptor in (*descriptors, connection.detach()):
                os.close(descriptor)


def _run(about: dict, descriptors: list[int]) -> int:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(about["cwd"])
    os.environ.clear()
    os.environ.update(about["env"])
    kind, *arguments = about["request"]
    code = 0
    try:
        if kind == "mtl":
            sys.argv = ["mtl", *arguments]
            import_module("mtl.cli").main()
        else:
            sys.path.insert(0, "")
            exec(compile(arguments[0], "<block>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    # warm.py serve SOCKET | warm.py ask SOCKET (mtl | python) [argument …]
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[2], sys.argv[3:]))
