"""The command ``python -m metarl.report``; in Python, ``metarl.report`` is a function."""

import sys

from metarl.commands.report import main

if __name__ == "metarl.report":
    raise ImportError("metarl.report is a function, and a command: python -m metarl.report. Import metarl alone.")

if __name__ == "__main__":
    sys.exit(main())
