"""The command ``python -m metarl.plot``; in Python, ``metarl.plot`` is a function."""

import sys

from metarl.commands.plot import main

if __name__ == "metarl.plot":
    raise ImportError("metarl.plot is a function, and a command: python -m metarl.plot. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
