"""The command ``python -m metarl.record``; in Python, ``metarl.record`` is a function."""

import sys

from metarl.commands.record import main

if __name__ == "metarl.record":
    raise ImportError("metarl.record is a function, and a command: python -m metarl.record. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
