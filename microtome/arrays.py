"""Names for the arrays that pass between rooms."""

import numpy as np
import numpy.typing as npt

type Pixels = npt.NDArray[np.uint8]
"""(c, y, x) uint8, c = R, G, B. A view of interleaved memory is allowed and usual."""

type Labels = npt.NDArray[np.uint32]
"""(y, x) uint32, 0 is background."""

type Mask = npt.NDArray[np.bool_]
"""(y, x) bool."""

type Floats = npt.NDArray[np.float32]
type Doubles = npt.NDArray[np.float64]
type Ints = npt.NDArray[np.int64]
type Band = tuple[int, Floats, Floats]
"""Some rows of what a network gives: the number of the first, the probability's (rows, x), and distances of
(n_rays, rows, x)."""
