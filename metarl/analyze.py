"""The command ``python -m metarl.analyze``; in Python, ``metarl.analyze`` is a function."""

import sys

from metarl.commands.analyze import main

if __name__ == "metarl.analyze":
    raise ImportError("metarl.analyze is a function, and a command: python -m metarl.analyze. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
