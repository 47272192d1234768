"""Array aliases shared by environments and rollouts. Any float precision is allowed: the caller owns the buffers."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]
