"""The command ``python -m metarl.train``; in Python, ``metarl.train`` is a function."""

import sys

from metarl.commands.train import main

if __name__ == "metarl.train":
    raise ImportError("metarl.train is a function, and a command: python -m metarl.train. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
