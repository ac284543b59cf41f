"""Products of sparse maps with dense matrices, on the device of the dense one."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

LONG = 64
"""Numbers in a row above which it is summed by itself."""
STEP_BYTES = 2**28
"""Working memory of a step."""


def sparse_product(matrix: sp.sparray | sp.spmatrix, x: Tensor) -> Tensor:
    """``matrix @ x`` for a sparse ``(m, P)`` and a dense float64 ``(P, outputs)``, on the device of x.

    On a CPU it is SciPy's.  Elsewhere rows of as many numbers are summed together, entry by entry, so that the result is the
    same bits every time; nearly dense rows one by one.
    """
    if x.device.type == "cpu":
        return torch.from_numpy(matrix @ x.numpy())
    table = matrix.tocsr()
    table.sort_indices()
    out, counts = x.new_zeros(table.shape[0], x.shape[1]), np.diff(table.indptr)
    step = max(1, STEP_BYTES // (2 * x.element_size() * max(1, x.shape[1])))

    def there(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=x.device)

    for row in np.flatnonzero(counts > LONG):
        for start in range(table.indptr[row], table.indptr[row + 1], step):
            part = slice(start, min(start + step, table.indptr[row + 1]))
            out[int(row)] += there(table.data[part]).to(x.dtype) @ x[there(table.indices[part].astype(np.int64))]
    for count in np.unique(counts[(counts > 0) & (counts <= LONG)]):
        alike = np.flatnonzero(counts == count)
        for start in range(0, len(alike), step):
            rows = alike[start : start + step]
            places = (table.indptr[rows][:, None] + np.arange(count)).T
            columns, values = there(table.indices[places].astype(np.int64)), there(table.data[places]).to(x.dtype)
            total = x[columns[0]].mul_(values[0][:, None])
            for k in range(1, int(count)):
                total.add_(x[columns[k]].mul_(values[k][:, None]))
            out[there(rows)] = total
    return out
