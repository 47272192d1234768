"""Array aliases for what environments and rollouts share; any float precision, because callers own their buffers."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]
