"""``python -m mtl`` is ``mtl``."""

from mtl.cli import main

if __name__ == "__main__":
    main()
