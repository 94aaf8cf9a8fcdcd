"""The integer program behind a choice: one alternative of every part, as scipy's HiGHS takes it.

Variables: x[part, i], 1 where alternative i is picked. A figure that depends on several parts at once has a y >= 0 for
each combination of their alternatives, whose sums over all other parts are the x of each part: where the x are whole,
y is 1 at the combination that is picked and 0 elsewhere, so the figure is exact. What pieces share has a z >= 0, which
is, for each combination of n parts that needs it, at least the sum of their x less n - 1: 1 where it is picked.

Source: R. Huangfu, J. Hall, "Parallelizing the dual revised simplex method", 2018 (HiGHS); the marginals are those of
the local polytope of M. Wainwright, M. Jordan, "Graphical models, exponential families, and variational inference",
2008, section 4.1.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfstruct.compression.alternatives.alternative import At
from tfstruct.compression.alternatives.cost_table import MEMORY, PEAK, Cost, SharedCost
from tfstruct.compression.alternatives.sums import along

DAMAGE = "damage"
_SCALE = 100.0  # of the objective: HiGHS stops at a gap of 1e-6
_SLACK = 1e-9  # share of a limit that a sum of floats may exceed it by
_OUT_OF_TIME = 1  # status of `milp`


@dataclasses.dataclass(frozen=True)
class Solved:
    """What the solver found.

    Attributes:
        picked: part -> number of its alternative; None where none was found.
        value: what was minimised, there.
        bound: what no choice has less of; below `value` where time ran out.
        in_time: whether the solver came to an end: where it did, and nothing is picked, nothing can be.
    """

    picked: dict[str, int] | None
    value: float = math.inf
    bound: float = -math.inf
    in_time: bool = True


class Program:
    """Choices of one alternative a part, and sums over tables of what they cost.

    Args:
        allowed: part -> the numbers of the alternatives that may be picked, one at least.
        tables: of costs, and of damage under the name `DAMAGE`.
        limited: the figures that limits may be set on.
        conflicts: pairs that are not picked together.
    """

    def __init__(
        self,
        allowed: Mapping[str, Sequence[int]],
        tables: Iterable[Cost],
        limited: Iterable[str],
        conflicts: Iterable[tuple[At, At]] = (),
    ):
        self._allowed = {part: list(places) for part, places in allowed.items()}
        self._start: dict[str, int] = {}
        self._count = 0
        for part, places in self._allowed.items():
            self._start[part] = self._count
            self._count += len(places)
        self._binary = self._count
        self._constant: dict[str, float] = {}
        self._terms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._most: dict[str, float] = {}
        self._equal: list[tuple[np.ndarray, np.ndarray, float]] = []  # columns, factors, right-hand side
        self._at_most: list[np.ndarray] = []  # of these columns one at most is 1
        for part, places in self._allowed.items():
            columns = self._start[part] + np.arange(len(places))
            self._equal.append((columns, np.ones(len(places)), 1.0))
        self._shared: list[tuple[np.ndarray, int, int]] = []  # columns of x, of z, and how many x are in a combination
        tables, wanted = tuple(tables), {DAMAGE, *limited}
        self._add_tables(tables, wanted)
        for table in tables:
            if isinstance(table, SharedCost):
                self._add_shared(table, wanted)
        for one, other in conflicts:
            at = [column for column in map(self._column, (one, other)) if column is not None]
            if len(at) == 2:
                self._at_most.append(np.array(at))

    def _column(self, at: At) -> int | None:
        """The variable of an alternative; None where it may not be picked."""
        part, place = at
        return self._start[part] + self._allowed[part].index(place) if place in self._allowed[part] else None

    def _add_tables(self, tables: Iterable[Cost], wanted: set[str]) -> None:
        """Tables of the same parts become one, those of some of another's parts are part of it."""
        sums: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
        for table in tables:
            if isinstance(table, SharedCost):
                continue
            for name, values in table.figures.items():
                if name in wanted or (PEAK in wanted and name.startswith(MEMORY)):
                    parts, values = self._cut(table.parts, values)
                    _add(sums.setdefault(parts, {}), name, values)
        for parts in sorted(sums, key=len):
            homes = [other for other in sums if len(other) > len(parts) > 1 and set(parts) < set(other)]
            if homes:
                for name, values in sums.pop(parts).items():
                    _add(sums[homes[0]], name, along(parts, values, homes[0]))
        for parts, figures in sums.items():
            self._add_sum(parts, figures)

    def _add_shared(self, one: SharedCost, wanted: set[str]) -> None:
        figures = {name: value for name, value in one.figures.items() if name in wanted and value}
        needs = [self._cut(parts, where) for parts, where in one.needs] if figures else []
        needs = [(parts, where) for parts, where in needs if where.any()]
        if not needs:
            return
        for name, value in figures.items():
            self._most[name] = self._most.get(name, 0.0) + value
        if any(where.all() for _, where in needs):  # whatever is picked
            for name, value in figures.items():
                self._constant[name] = self._constant.get(name, 0.0) + value
            return
        z, self._count = self._count, self._count + 1
        for name, value in figures.items():
            self._add_terms(name, z, np.array([value]))
        for parts, where in needs:
            starts, places = np.array([self._start[part] for part in parts]), np.argwhere(where)
            if len(parts) == 1:  # of one part only one alternative is picked
                self._shared.append((starts[0] + places[:, 0], z, 1))
            else:
                self._shared += [(starts + place, z, len(parts)) for place in places]

    def _cut(self, parts: Sequence[str], values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Only what may be picked, and only the parts in which there is a choice, in order."""
        for axis, part in enumerate(parts):
            values = np.take(values, self._allowed[part], axis)
        free = [axis for axis, part in enumerate(parts) if len(self._allowed[part]) > 1]
        values = values.reshape([values.shape[axis] for axis in free])
        names = [parts[axis] for axis in free]
        order = sorted(range(len(names)), key=lambda i: self._start[names[i]])
        return tuple(names[i] for i in order), values.transpose(order)

    def _add_sum(self, parts: tuple[str, ...], figures: dict[str, np.ndarray]) -> None:
        joint: dict[str, np.ndarray] = {}
        for name, values in figures.items():
            self._most[name] = self._most.get(name, 0.0) + float(np.max(values))
            first = float(values[(0,) * values.ndim])
            effects = [np.moveaxis(values, axis, 0).reshape(n, -1)[:, 0] for axis, n in enumerate(values.shape)]
            axes = range(values.ndim)
            whole = sum((along([axis], effects[axis] - first, axes) for axis in axes), np.full((), first))
            if np.allclose(whole, values, rtol=1e-12, atol=1e-12 * float(np.max(np.abs(values), initial=1e-300))):
                self._constant[name] = self._constant.get(name, 0.0) + first
                for part, effect in zip(parts, effects, strict=True):
                    self._add_terms(name, self._start[part], effect - first)
            else:
                joint[name] = values
        if not joint:
            return
        shape = tuple(len(self._allowed[part]) for part in parts)
        start, size = self._count, math.prod(shape)
        self._count += size
        numbers = start + np.arange(size).reshape(shape)
        for name, values in joint.items():
            self._add_terms(name, start, np.broadcast_to(values, shape).ravel())
        for axis, part in enumerate(parts):
            for i, columns in enumerate(np.moveaxis(numbers, axis, 0).reshape(shape[axis], -1)):
                factors = np.append(np.ones(columns.size), -1.0)
                self._equal.append((np.append(columns, self._start[part] + i), factors, 0.0))

    def _add_terms(self, name: str, start: int, values: np.ndarray) -> None:
        at = np.flatnonzero(values)
        if at.size:
            self._terms.setdefault(name, []).append((start + at, values[at]))

    def _row(self, name: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Columns, factors and constant of a figure."""
        terms = self._terms.get(name, [])
        columns = np.concatenate([at for at, _ in terms]) if terms else np.zeros(0, int)
        factors = np.concatenate([values for _, values in terms]) if terms else np.zeros(0)
        return columns, factors, self._constant.get(name, 0.0)

    def _rows_of(self, name: str) -> list[str]:
        """The figures behind a limit: of the peak memory those of all moments."""
        known = {*self._terms, *self._constant}
        return sorted(one for one in known if one.startswith(MEMORY)) if name == PEAK else [name]

    def best(
        self, limits: Mapping[str, float], without: Sequence[Mapping[str, int]] = (), seconds: float = 60.0
    ) -> Solved:
        """The choice of least damage that meets the limits.

        Args:
            without: choices that are not wanted.
            seconds: until the search is stopped; then the best found is taken.
        """
        upper = [(self._row(one), limit) for name, limit in limits.items() for one in self._binding(name, limit)]
        rows = []
        for (columns, factors, constant), limit in upper:
            scale = abs(limit) or 1.0
            rows.append((columns, factors / scale, (limit - constant) / scale + _SLACK))
        return self._solve(self._row(DAMAGE), rows, without, seconds)

    def least(self, limits: Mapping[str, float], seconds: float = 60.0) -> Solved:
        """The choice that meets the least factor of these limits together: `value` is that factor."""
        rows, level = [], self._count
        for name, limit in limits.items():
            for one in self._rows_of(name):
                columns, factors, constant = self._row(one)
                scale = abs(limit) or 1.0
                rows.append((np.append(columns, level), np.append(factors / scale, -1.0), -constant / scale))
        return self._solve((np.array([level]), np.ones(1), 0.0), rows, (), seconds)

    def _binding(self, name: str, limit: float) -> list[str]:
        """The figures that can exceed a limit."""
        return [one for one in self._rows_of(name) if self._most.get(one, 0.0) > limit]

    def _solve(self, aim, rows, without: Sequence[Mapping[str, int]], seconds: float) -> Solved:
        """Minimises `aim`, columns, factors and a constant; one more variable than there are is free."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        columns, factors, constant = aim
        count = self._count + 1
        scale = _SCALE / (float(np.max(np.abs(factors), initial=0.0)) or 1.0)
        cost = np.zeros(count)
        np.add.at(cost, columns, scale * factors)
        matrix, least, most = self._constraints(rows, without, count)
        largest = np.append(np.ones(self._count), np.inf)
        result = milp(
            cost,
            integrality=np.arange(count) < self._binary,
            bounds=Bounds(np.append(np.zeros(self._count), -np.inf), largest),
            constraints=LinearConstraint(matrix, least, most),
            # HiGHS's presolve calls worse choices optimal where some variables are whole and others are not (its issues
            # 2900, 3043, 3073, 3094): one of 389 random programs in our tests. What is fixed is taken out by `_cut`.
            options={"mip_rel_gap": 0.0, "time_limit": seconds, "presolve": False},
        )
        bound = -math.inf if result.mip_dual_bound is None else float(result.mip_dual_bound) / scale + constant
        in_time = result.status != _OUT_OF_TIME
        if result.x is None:
            return Solved(None, bound=bound, in_time=in_time)
        picked = {
            part: places[int(np.argmax(result.x[self._start[part] :][: len(places)]))]
            for part, places in self._allowed.items()
        }
        return Solved(picked, float(result.fun) / scale + constant, bound, in_time)

    def _constraints(self, rows, without: Sequence[Mapping[str, int]], count: int):
        from scipy.sparse import coo_array

        found = [*self._equal_rows(), *((at, np.ones(len(at)), -np.inf, 1.0) for at in self._at_most)]
        found += [(np.append(at, z), np.append(np.ones(len(at)), -1.0), -np.inf, n - 1.0) for at, z, n in self._shared]
        found += [(at, values, -np.inf, most) for at, values, most in rows]
        for choice in without:
            at = np.array([self._start[part] + self._allowed[part].index(place) for part, place in choice.items()])
            found.append((at, np.ones(len(at)), -np.inf, len(at) - 1.0))
        found.append((np.array([count - 1]), np.ones(1), -np.inf, np.inf))  # a matrix of no rows is refused
        columns, values, least, most = zip(*found, strict=True)
        numbers = np.repeat(np.arange(len(found)), [len(one) for one in columns])
        entries = np.concatenate(values), (numbers, np.concatenate(columns).astype(int))
        return coo_array(entries, (len(found), count)).tocsr(), np.array(least), np.array(most)

    def _equal_rows(self):
        return ((at, values, right, right) for at, values, right in self._equal)


def _add(figures: dict[str, np.ndarray], name: str, values: np.ndarray) -> None:
    figures[name] = figures[name] + values if name in figures else values
