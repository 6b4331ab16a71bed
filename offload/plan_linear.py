"""A mixed-integer program written column by column and row by row, solved by HiGHS through scipy."""

import math
from collections.abc import Mapping

_RELATIVE_GAP = 1e-5
_MOST_NODES = 2_000


class LinearProgram:
    """Minimises a linear objective. Columns are numbered in the order in which they are added."""

    def __init__(self) -> None:
        self._bounds: list[tuple[float, float]] = []
        self._costs: list[float] = []
        self._is_integer: list[bool] = []
        self._rows: list[tuple[Mapping[int, float], float, float]] = []

    def column(self, lower: float, upper: float, *, cost: float = 0.0, is_integer: bool = False) -> int:
        """Add a variable; returns its number."""
        self._bounds.append((lower, upper))
        self._costs.append(cost)
        self._is_integer.append(is_integer)
        return len(self._bounds) - 1

    def row(self, terms: Mapping[int, float], *, at_least: float = -math.inf, at_most: float = math.inf) -> None:
        """Add a constraint on the sum of ``coefficient * column``."""
        self._rows.append((terms, at_least, at_most))

    def solve(self, *, relaxed: bool = False) -> tuple[float, list[float]] | None:
        """The objective and the value of every column, or None if no point satisfies the rows.

        ``relaxed`` lets whole numbers be fractions, which is fast and never worse than the answer without it.
        """
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        matrix = np.zeros((len(self._rows), len(self._bounds)))
        for i, (terms, _, _) in enumerate(self._rows):
            for column, coefficient in terms.items():
                matrix[i, column] = coefficient
        lower, upper = np.array(self._bounds).T
        result = milp(
            np.array(self._costs),
            integrality=np.array(self._is_integer, np.uint8) * (not relaxed),
            bounds=Bounds(lower, upper),
            constraints=LinearConstraint(matrix, [row[1] for row in self._rows], [row[2] for row in self._rows]),
            # Without presolving: these programs are small, and after it HiGHS 1.12 leaves lines of its own on stderr.
            options={"mip_rel_gap": _RELATIVE_GAP, "node_limit": _MOST_NODES, "presolve": False},
        )
        return None if result.x is None else (float(result.fun), [float(value) for value in result.x])
