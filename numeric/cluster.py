"""Work on other processes and machines, by Dask (``pip install "wavelet-score[cluster]"``); imported when it is asked for.

A worker that dies is no error: what it had is done again elsewhere.  What cannot be done at all ends with an error that
names the shards, and a scheduler that goes away with one that says how to go on.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numeric.reduction import Finished, Node, Tree

CONNECT_SECONDS = 20
"""How long an address may take to answer."""
RESCUE_SECONDS = 20
"""How long a finished sum may take to come over when the work ends with an error."""


GONE = ("CancelledError", "FutureCancelledError", "CommClosedError")
"""What Dask raises where a scheduler went away."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or went away; the message says how to go on."""


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(f'a cluster needs Dask ({error}): pip install "wavelet-score[cluster]"') from error
    return distributed


def local_workers(client: Any) -> int | None:
    """N of ``"local:N"``, None of anything else.

    Raises:
        ValueError: N is not a number of processes.
    """
    if not isinstance(client, str) or not client.startswith("local:"):
        return None
    number = client.removeprefix("local:")
    if not number.isdecimal() or int(number) > 1024:
        raise ValueError(f"unknown cluster {client!r}: 'local:N' with N worker processes (0: this process), or an address")
    return int(number)


def check_client(client: Any) -> None:
    """Raise ValueError or ClusterError for a client that cannot be one, before any work."""
    if client is None or local_workers(client) == 0:
        return
    distributed = _distributed()
    if not isinstance(client, str | distributed.Client):
        raise ValueError(
            f"client must be a dask.distributed.Client, the address of a scheduler or 'local:N', got {type(client).__name__}"
        )
    if isinstance(client, distributed.Client) and client.asynchronous:
        raise ValueError("the client is asynchronous: make it with Client(..., asynchronous=False)")


@contextlib.contextmanager
def connected(client: Any) -> Iterator[Any]:
    """A Dask client for the block, or None for this process.

    Args:
        client: None or ``"local:0"``: this process; ``"local:N"``: N processes of one thread, started now and ended with the
            block; the address of a scheduler (``"tcp://host:8786"``), left running; or a ``dask.distributed.Client``.

    Raises:
        ClusterError: Dask is not installed, nothing answers at the address, or the client is closed.
    """
    check_client(client)
    workers = local_workers(client)
    if client is None or workers == 0:
        yield None
        return
    distributed = _distributed()
    if workers is not None:
        quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": "127.0.0.1:0"}
        with (
            distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **quiet) as cluster,
            distributed.Client(cluster) as made,
        ):
            yield made
    elif isinstance(client, str):
        try:
            made = distributed.Client(client, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise ClusterError(f"no scheduler answers at {client!r} ({error}): start one (dask scheduler), or give 'local:N'") from error
        with made:
            yield made
    else:
        if client.status != "running":
            raise ClusterError(f"the client is {client.status}: make a new one")
        yield client


def answer(client: Any, futures: Sequence[Any]) -> list[Any]:
    """The results of some tasks.

    Raises:
        ClusterError: the scheduler went away; else what the tasks raised.
    """
    try:
        return list(client.gather(list(futures)))
    except Exception as error:
        if client.status != "running" or type(error).__name__ in GONE:
            raise _gone(client) from error
        raise


def same(value: Any) -> Any:
    """The value itself; a task that brings it to whoever needs it, and again after a fault."""
    return value


def reduce_on(
    client: Any,
    tree: Tree,
    leaf: Callable[[int], tuple[Callable[..., Any], tuple[Any, ...]]],
    merge: Callable[[Sequence[Any]], Any],
    finished: Finished,
    told: Callable[[int], None],
    names: Callable[[int], str],
) -> Any:
    """The root of the tree, made by a Dask client's workers; what is asked for and in which order does not depend on them.

    Args:
        leaf: the call that makes a leaf: a function and its arguments, futures among them.
        merge: puts values together; a function that can be pickled.
        told: is called with every leaf that is done. names: shards of a leaf, for messages.

    Raises:
        ClusterError: the scheduler went away, or a task ended its workers time after time.
    """
    done: queue.SimpleQueue[Node] = queue.SimpleQueue()
    futures: dict[Node, Any] = {}
    total = 2 * tree.leaves
    try:
        for rank, node in enumerate(tree.nodes()):
            if finished.known(node):
                if node in finished.values:
                    futures[node] = client.submit(same, finished.values[node], pure=False, priority=total)
                if node[0] == 0:
                    told(node[1])
                continue
            if node[0] == 0:
                function, arguments = leaf(node[1])
                futures[node] = client.submit(function, *arguments, pure=False, priority=total - rank)
            else:
                parts = [futures[child] for child in tree.children(node)]
                futures[node] = client.submit(merge, parts, pure=False, priority=total - rank)
            futures[node].add_done_callback(lambda _, node=node: done.put(node))
        waiting = {node for node in futures if not finished.known(node)}
        while waiting:
            try:
                node = done.get(timeout=1.0)
            except queue.Empty:
                if client.status != "running":
                    raise _gone(client) from None
                continue
            future = futures[node]
            if future.status == "error":
                raise _named(future.exception(), node, tree, names)
            if future.status != "finished":
                raise _gone(client)
            waiting.discard(node)
            if node[0] == 0:
                told(node[1])
            else:
                for child in tree.children(node):
                    futures.pop(child, None)
            finished.add(node, future)
            finished.save(_fetch, now=node == tree.root)
        return _fetch(futures[tree.root])
    except BaseException as error:
        if client.status == "running" and type(error).__name__ not in GONE:
            while not done.empty():
                node = done.get()
                if node in futures and futures[node].status == "finished":
                    finished.add(node, futures[node])
            finished.save(_rescued, now=True)
        elif isinstance(error, Exception) and not isinstance(error, ClusterError):
            raise _gone(client) from error  # while a sum came over, for one
        raise
    finally:
        if client.status == "running":
            client.cancel(list(futures.values()))


def _fetch(value: Any) -> Any:
    return value.result() if hasattr(value, "add_done_callback") else value


def _rescued(value: Any) -> Any:
    """The value where it can be had soon, else None."""
    with contextlib.suppress(Exception):
        return value.result(timeout=RESCUE_SECONDS) if hasattr(value, "add_done_callback") else value
    return None


def _gone(client: Any) -> ClusterError:
    return ClusterError(
        f"the scheduler went away (the client is {client.status}): start it again and repeat the call; with checkpoint= nothing that "
        "was written down is done again"
    )


def _named(error: BaseException, node: Node, tree: Tree, names: Callable[[int], str]) -> BaseException:
    """An error of a task; of a task that ended its workers, one that says what it was at."""
    if type(error).__name__ != "KilledWorker":
        return error
    return ClusterError(
        f"the workers that summed {names(tree.span(node)[0])} died time after time: give them more memory or smaller shards ({error})"
    )
