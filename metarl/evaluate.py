"""The command ``python -m metarl.evaluate``; in Python, ``metarl.evaluate`` is a function."""

import sys

from metarl.commands.evaluate import main

if __name__ == "metarl.evaluate":
    raise ImportError("metarl.evaluate is a function, and a command: python -m metarl.evaluate. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
