"""The command ``python -m metarl.compare``; in Python, ``metarl.compare`` is a function."""

import sys

from metarl.commands.compare import main

if __name__ == "metarl.compare":
    raise ImportError("metarl.compare is a function, and a command: python -m metarl.compare. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
