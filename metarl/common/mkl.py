"""Selects MKL's reproducible mode; PyTorch multiplies matrices with MKL on x86 processors.

By default, the last bits of MKL's products depend on the memory addresses of the matrices, so equal runs could differ.
The reproducible mode removes this dependence. The package imports this module before anything else, because MKL reads
the mode only once, at its first use. A mode set by the user is kept; an empty one means MKL's default. Builds without
MKL ignore the setting.
"""

import os

# AUTO keeps the kernels for the processor's instruction set. STRICT takes effect on Intel processors with AVX2 or
# newer.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
