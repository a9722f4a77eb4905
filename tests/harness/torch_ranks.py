"""Several ranks of torch.distributed (gloo, on the CPU), each a real process; they start from one that has torch."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch.distributed.checkpoint", "torch.distributed.tensor"])


def run_ranks(
    count: int, function: Callable[..., Any], *arguments: Any, env: Mapping[str, str], meet: Path, timeout: float = 90
) -> list[Any]:
    """What a module's function gives in each rank, in their order.

    Parameters
    ----------
    env
        Added to the processes' environment.
    meet
        A file that is not there, by which they find each other.
    """
    with ProcessPoolExecutor(count, mp_context=_CONTEXT) as pool:
        ranks = [pool.submit(_in_rank, rank, count, function, arguments, dict(env), meet) for rank in range(count)]
        try:
            return [rank.result(timeout) for rank in ranks]
        finally:
            for process in list((pool._processes or {}).values()):  # those that wait for a rank that failed
                process.kill()


@contextmanager
def one_process(function: Callable[..., Any], *arguments: Any, env: Mapping[str, str]) -> Iterator[Any]:
    """A process without ranks, to be killed in the middle; it ends with the block."""
    process = _CONTEXT.Process(target=_alone, args=(function, arguments, dict(env)))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _in_rank(
    rank: int, count: int, function: Callable[..., Any], arguments: tuple[Any, ...], env: dict[str, str], meet: Path
) -> Any:
    import torch
    import torch.distributed

    os.environ.update(env)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=count)
    try:
        return function(*arguments)
    finally:
        torch.distributed.destroy_process_group()


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...], env: dict[str, str]) -> None:
    os.environ.update(env)
    function(*arguments)
