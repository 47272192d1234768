"""Chooses MKL's reproducible mode; PyTorch multiplies matrices with MKL on x86 processors.

By default, the last bits of MKL's products depend on where matrices lie in memory, so that equal runs could differ. In
this mode they do not. It is imported for this effect, before anything else, because MKL reads the mode once, when it is
first used. A mode that the user has set stays; the empty one is MKL's default. Builds without MKL ignore it.
"""

import os

# AUTO keeps the kernels of the processor's own instruction set. STRICT counts on Intel's processors with AVX2 or newer.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
