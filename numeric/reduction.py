"""Sums put together in one fixed order, whoever made them: a tree over runs of shards, and what of it is finished.

Floating sums depend on their order.  The tree depends on the number of runs alone, so that one process, two workers or a
hundred, and a run that was taken up after a fault, give the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

FAN_IN = 4
"""Sums that are put together at once: fewer steps and transfers than pairs, and no more memory than four sums."""

Node = tuple[int, int]
"""Height and place: ``(0, i)`` is run i, ``(h, k)`` the sum of ``(h - 1, FAN_IN k)`` and the next ones."""


@dataclass(frozen=True)
class Tree:
    """The order in which the sums of ``leaves`` runs are put together.

    Example:
        >>> tree = Tree(6)
        >>> tree.root, tree.children((1, 1)), list(tree.nodes())[4:]
        ((2, 0), [(0, 4), (0, 5)], [(1, 0), (0, 4), (0, 5), (1, 1), (2, 0)])
    """

    leaves: int

    def width(self, height: int) -> int:
        """Number of nodes at a height."""
        return -(-self.leaves // FAN_IN**height)

    @property
    def root(self) -> Node:
        height = 0
        while self.width(height) > 1:
            height += 1
        return height, 0

    def children(self, node: Node) -> list[Node]:
        """What a node above the leaves is the sum of, in order."""
        height, place = node
        last = min(FAN_IN * (place + 1), self.width(height - 1))
        return [(height - 1, k) for k in range(FAN_IN * place, last)]

    def above(self, node: Node) -> list[Node]:
        """The nodes that hold a node, from itself to the root."""
        height, place = node
        return [(h, place // FAN_IN ** (h - height)) for h in range(height, self.root[0] + 1)]

    def span(self, node: Node) -> tuple[int, int]:
        """First and last leaf (exclusive) below a node."""
        height, place = node
        return place * FAN_IN**height, min(self.leaves, (place + 1) * FAN_IN**height)

    def nodes(self) -> Iterator[Node]:
        """All nodes, children before what they make, as early as can be."""
        for leaf in range(self.leaves):
            yield 0, leaf
            for node in self.above((0, leaf))[1:]:
                if leaf + 1 < self.span(node)[1]:
                    break
                yield node


class Finished:
    """Finished nodes that no finished node above holds, and when they are written down.

    Args:
        tree: their tree.
        kept: nodes of an earlier run.
        write: puts the value of a node in a file; ``drop``: removes the file of a node that one above holds.
        every: seconds between writings, or more where writing takes long: it stays below a twentieth of the time.
    """

    def __init__(
        self,
        tree: Tree,
        kept: dict[Node, Any],
        write: Callable[[Node, Any], None] | None = None,
        drop: Callable[[Node], None] | None = None,
        every: float = 30.0,
    ) -> None:
        self.tree, self.values = tree, kept
        self._kept, self._written = set(kept), set(kept)
        self._write, self._drop, self._every = write, drop, every
        self._last, self._pause = time.monotonic(), every

    def known(self, node: Node) -> bool:
        """Whether an earlier run finished the node, or one that holds it."""
        return any(above in self._kept for above in self.tree.above(node))

    def add(self, node: Node, value: Any) -> None:
        """A node is finished; what it was made of is no longer needed."""
        if node[0]:
            for child in self.tree.children(node):
                self.values.pop(child, None)
        self.values[node] = value

    def save(self, fetch: Callable[[Any], Any] = lambda value: value, now: bool = False) -> None:
        """Write what is not yet written, if it is time; ``fetch`` makes a value at hand of what was added, None if it cannot."""
        start = time.monotonic()
        if self._write is None or (not now and start - self._last < self._pause):
            return
        for node in sorted(set(self.values) - self._written):
            value = fetch(self.values[node])
            if value is not None:
                self._write(node, value)
                self._written.add(node)
        for node in sorted(self._written - set(self.values)):
            if not self._written & set(self.tree.above(node)[1:]):
                continue  # what holds it could not be written
            if self._drop is not None:
                self._drop(node)
            self._written.discard(node)
        self._last = time.monotonic()
        self._pause = self._every and max(self._every, 20 * (self._last - start))


def reduce_here(
    tree: Tree, leaf: Callable[[int], Any], merge: Callable[[Sequence[Any]], Any], finished: Finished, told: Callable[[int], None]
) -> Any:
    """The root of the tree, made in this process; ``told`` is called with every leaf that is done."""
    try:
        for node in tree.nodes():
            if finished.known(node):
                if node[0] == 0:
                    told(node[1])
                continue
            if node[0] == 0:
                value = leaf(node[1])
                told(node[1])
            else:
                value = merge([finished.values[child] for child in tree.children(node)])
            finished.add(node, value)
            finished.save(now=node == tree.root)
    except BaseException:
        finished.save(now=True)
        raise
    return finished.values[tree.root]
