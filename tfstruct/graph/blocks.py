"""Block constraints: the smallest sets of units whose removal leaves equally many in every block."""

import math

import numpy as np

Partition = np.ndarray  # shape (blocks, units in a block)


def distinct(blocks: tuple[Partition, ...]) -> tuple[Partition, ...]:
    """The partitions without repetitions and without those that a finer one implies."""
    kept: list[Partition] = []
    for block in sorted(blocks, key=len, reverse=True):
        if not any(_implies(finer, block) for finer in kept):
            kept.append(block)
    return tuple(kept)


def _implies(finer: Partition, coarser: Partition) -> bool:
    """Every block of the coarser partition is a union of blocks of the finer one."""
    if set(finer.ravel().tolist()) != set(coarser.ravel().tolist()):
        return False
    home = {unit: row for row, block in enumerate(coarser.tolist()) for unit in block}
    return all(len({home[unit] for unit in block}) == 1 for block in finer.tolist())


def solvable(blocks: tuple[Partition, ...]) -> bool:
    """Whether `atoms` can handle these: any number apart from each other, and at most two on the same units."""
    sets = [frozenset(b.ravel().tolist()) for b in blocks]
    for i, a in enumerate(sets):
        if sum(a == b for b in sets) > 2 or any(a != b and a & b for b in sets[i + 1 :]):
            return False
    return True


def atoms(free: np.ndarray, blocks: tuple[Partition, ...], scores: np.ndarray) -> list[list[int]]:
    """The units that can go, as sets that can go one after the other, the least important first.

    Args:
        free: the units that can go.
        blocks: `distinct` partitions that are `solvable`.
        scores: importance, by unit.
    """
    allowed = set(free.tolist())
    bound = {unit for block in blocks for unit in block.ravel().tolist()}
    found = [[unit] for unit in allowed - bound]
    by_units: dict[frozenset[int], list[Partition]] = {}
    for block in blocks:
        by_units.setdefault(frozenset(block.ravel().tolist()), []).append(block)
    for pair in by_units.values():
        found += _zipped(pair[0], allowed, scores) if len(pair) == 1 else _crossed(pair[0], pair[1], allowed, scores)
    return sorted(found, key=lambda atom: (mean_score(atom, scores), min(atom)))


def mean_score(units: list[int], scores: np.ndarray) -> float:
    """The mean of the scores of some units, most often of one."""
    return float(scores[units[0]] if len(units) == 1 else np.mean(scores[units]))


def _zipped(block: Partition, allowed: set[int], scores: np.ndarray) -> list[list[int]]:
    """One unit of each block: their least important together, and so on."""
    rows = [sorted((u for u in row if u in allowed), key=lambda u: (scores[u], u)) for row in block.tolist()]
    return [list(atom) for atom in zip(*rows, strict=False)]


def _crossed(a: Partition, b: Partition, allowed: set[int], scores: np.ndarray) -> list[list[int]]:
    """Sets with equally many units of each block of both partitions.

    With L the least common multiple of the numbers of blocks, an atom has L units: an integral flow from the blocks
    of `a` to those of `b`, which exists as long as equally many are left in every block. Paths are augmented through
    the least important units first.
    """
    size = math.lcm(len(a), len(b))
    left = {unit: row for row, block in enumerate(a.tolist()) for unit in block}
    right = {unit: row for row, block in enumerate(b.tolist()) for unit in block}
    remaining = sorted((u for u in left if u in allowed), key=lambda u: (scores[u], u))
    found = []
    while atom := _flow(remaining, left, right, size // len(a), size // len(b), len(a), len(b)):
        found.append(atom)
        gone = set(atom)
        remaining = [u for u in remaining if u not in gone]
    return found


def _flow(units, left, right, per_left, per_right, lefts, rights) -> list[int] | None:
    """`per_left` units of every left block and `per_right` of every right block; None if there are none."""
    cells: dict[tuple[int, int], list[int]] = {}
    for unit in units:
        cells.setdefault((left[unit], right[unit]), []).append(unit)
    used = dict.fromkeys(cells, 0)
    filled = [0] * rights

    def augment(row: int, seen: set[int]) -> bool:
        for cell in [c for c in cells if c[0] == row]:  # in order of their least important unit
            column = cell[1]
            if used[cell] == len(cells[cell]) or column in seen:
                continue
            seen.add(column)
            if filled[column] < per_right:
                filled[column] += 1
                used[cell] += 1
                return True
            for other in [c for c in cells if c[1] == column and used[c] and c[0] != row]:
                used[other] -= 1
                if augment(other[0], seen):
                    used[cell] += 1
                    return True
                used[other] += 1
        return False

    for row in range(lefts):
        for _ in range(per_left):
            if not augment(row, set()):
                return None
    return [unit for cell, count in used.items() for unit in cells[cell][:count]]
