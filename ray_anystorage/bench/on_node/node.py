"""What one node of a benchmark does when it is told to; a process of its own, with the caches of a run's worker."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from typing import Any

from ray_anystorage.bench.limits import PHASES, Phase
from ray_anystorage.bench.on_node.climb import Counts
from ray_anystorage.bench.on_node.facts import facts, rooms
from ray_anystorage.bench.on_node.files import forget_pages, read_all
from ray_anystorage.bench.on_node.meter import Took, metered
from ray_anystorage.bench.on_node.order import Order, Piece
from ray_anystorage.bench.on_node.place import FOLDER, BenchPlace, own_disk, places_of
from ray_anystorage.bench.on_node.raw_mount import mount_at_once, mount_limits
from ray_anystorage.bench.on_node.raw_store import store_at_once, store_limits
from ray_anystorage.bench.on_node.stock import StockPath
from ray_anystorage.bench.shapes import Shape, write
from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.node import Node, enter
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver, Writers
from ray_anystorage.checkpoint.staging import Staging
from ray_anystorage.discovery.discover import discover
from ray_anystorage.origin import Origin
from ray_anystorage.settings import read_settings
from ray_anystorage.transfer.slots import writers_per_node
from ray_anystorage.transfer.store import Store

_ATTEMPT = "bench"
_STORE_CONNECTIONS, _MOUNT_FILES = 64, 4  # at once, at most


class NodeBench:
    """One node. All that it writes lies in the benchmark's folders."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._environment = discover(nodes=order.nodes)
        self._places = places_of(self._environment, order.id, order.grant)
        root = own_disk() or tempfile.gettempdir()
        self._own = os.path.join(root, FOLDER, order.id, f"node-{order.node[:12]}")
        self._source = os.path.join(self._own, "source")
        self._doing, self._since = "looking at storage", time.time()
        self._savers: dict[tuple[str, int], Saver] = {}
        self._stock: dict[str, StockPath] = {}
        self._staging: Staging | None = None
        os.makedirs(os.path.join(self._own, "tmp"), mode=0o700, exist_ok=True)
        tempfile.tempdir = os.path.join(self._own, "tmp")
        self._enter()

    def facts(self) -> dict[str, Any]:
        """What this node is, what it sees of each tier, and what earlier benchmarks left there, which is removed."""
        self._is("measuring itself")
        return facts(self._environment, self._places, self._own, self._order.no_credentials)

    def rooms(self) -> dict[str, int]:
        """Bytes that may be written now to each tier that is a disk, and to this node's own, which has no name."""
        return rooms(self._places, self._own)

    def limits(self, tier: str, most_bytes: int, known: tuple[int, int] | None) -> tuple[dict[str, Any], int]:
        """What a tier gives this node, as plain values of :class:`TierLimits`, and the bytes that were written for it.

        Parameters
        ----------
        known
            What was best for writing and for reading on another node; all numbers are tried where ``None``.
        """
        self._is(f"{tier}: its limits")
        place = self._places[tier]
        most = _STORE_CONNECTIONS if place.is_bucket else _MOUNT_FILES
        counts = Counts.known(*known, most) if known is not None else Counts.up_to(most)
        if place.is_bucket:
            store = place.recipe("raw").open()
            sent = store.counters.bytes_sent
            found = store_limits(store, self._order.node, counts=counts, most_bytes=most_bytes)
            return asdict(found), store.counters.bytes_sent - sent
        folder = self._raw_folder(tier)
        try:
            found, written = mount_limits(folder, counts=counts, most_bytes=most_bytes)
        finally:
            shutil.rmtree(folder)
        return asdict(found), written

    def at_once(self, tier: str, phase: Phase, known: tuple[int, int], most_bytes: int) -> tuple[float, int]:
        """What this node gets of a tier while the others do the same, and the bytes that were written.

        ``known`` is as for :meth:`limits`.
        """
        self._is(f"{tier}: its limits, all nodes at once")
        place = self._places[tier]
        counts = Counts.known(*known, _STORE_CONNECTIONS if place.is_bucket else _MOUNT_FILES)
        if place.is_bucket:
            store = place.recipe("raw").open()
            sent = store.counters.bytes_sent
            rate = store_at_once(store, self._order.node, counts, phase, most_bytes)
            return rate, store.counters.bytes_sent - sent
        folder = self._raw_folder(tier)
        found = mount_at_once(folder, counts, phase, most_bytes)
        if phase == PHASES[-1]:
            shutil.rmtree(folder)
        return found

    def write_source(self, shape: Shape, piece: Piece) -> None:
        """Have a checkpoint to save, or one node's part of one; every byte differs from the last one's."""
        self._is(f"writing {shape.name}")
        shutil.rmtree(self._source, ignore_errors=True)
        os.makedirs(self._source)
        files = shape.files
        if piece.world_size > 1:  # two ranks may not save the same name
            files = tuple((f"rank-{piece.rank}/{path}", size) for path, size in files)
        write(replace(shape, files=files), self._source)
        os.sync()  # or what follows would wait for it to be written back

    def save(self, tier: str, piece: Piece) -> Took:
        """Save it as a run's worker does, staged as ``anystorage.report`` does: ``stall`` is what training waits."""
        self._is(f"{tier}: saving")
        saver = self._saver(tier, piece.rank)
        part = Part(piece.checkpoint, _ATTEMPT, piece.rank, piece.world_size, piece.report)
        self._staging = self._staging or Staging(f"bench-{self._order.id}", 1)
        staging, stall = self._staging, 0.0

        def act() -> Any:
            nonlocal stall
            start = time.perf_counter()
            staged = staging.stage(self._source, keep=False)
            stall = time.perf_counter() - start
            saver.save(staged.directory if staged else self._source, part)
            if piece.world_size == 1:
                commit(saver.home, piece.checkpoint, _ATTEMPT, report=piece.report)
            return staged

        took, staged = metered(act, saver.home.counters)
        os.sync()
        if staged is not None:
            staging.give_back(staged)  # the other path saves the same files
        return replace(took, stall=stall if staged is not None else took.seconds)

    def commit(self, tier: str, piece: Piece) -> float:
        """Put the parts of all nodes together, as the controller does; seconds."""
        took, _ = metered(lambda: commit(self._home(tier), piece.checkpoint, _ATTEMPT, report=piece.report))
        return took.seconds

    def restore(self, tier: str, piece: Piece, expected: int, cold: bool) -> Took:
        """Open it as ``get_checkpoint().as_directory()`` does and read every byte.

        Parameters
        ----------
        expected
            Bytes that it has.
        cold
            Whether this node's cache and memory are emptied before.
        """
        self._is(f"{tier}: restoring, {'cold' if cold else 'warm'}")
        node = self._enter()  # another session: what was verified before does not count
        place, home = self._places[tier], self._home(tier)
        if cold:
            shutil.rmtree(node.cache_folder, ignore_errors=True)
            self._forget(place, "home", piece.checkpoint)
        opened = Origin(place.recipe("home"), None, piece.checkpoint, _ATTEMPT).opened(home=home, node=node)

        fetched = home.counters.bytes_fetched
        with contextlib.ExitStack() as stack:
            took, read = metered(lambda: read_all(stack.enter_context(opened.directory())), home.counters)
        _check(read, expected)
        return replace(took, fetched=home.counters.bytes_fetched - fetched if place.is_bucket else None)

    def stock_save(self, tier: str, piece: Piece) -> Took:
        """Save the same files as Ray does without this package."""
        self._is(f"{tier}: saving by Ray's own path")
        path = self._stock_path(tier)
        took, _ = metered(lambda: path.save(self._source, piece.checkpoint))
        os.sync()  # it leaves that to the system, and what follows should not pay for it
        return replace(took, stall=took.seconds)

    def stock_restore(self, tier: str, piece: Piece, expected: int) -> Took:
        """Open and read them as Ray does without this package."""
        self._is(f"{tier}: restoring by Ray's own path")
        path = self._stock_path(tier)
        self._forget(self._places[tier], "stock", piece.checkpoint)

        with contextlib.ExitStack() as stack:  # what it does when it is closed is after the restore
            took, read = metered(lambda: read_all(stack.enter_context(path.directory(piece.checkpoint))))
        _check(read, expected)
        return took

    def drop_source(self) -> None:
        """Remove what was saved from, as training code does: what is in the cache is then the cache's alone."""
        shutil.rmtree(self._source, ignore_errors=True)

    def drop(self, tier: str, piece: Piece) -> None:
        """Remove a checkpoint from the tier, by both paths, and from this node."""
        self._is(f"{tier}: removing what was saved")
        place = self._places[tier]
        if piece.rank == 0:
            for above in ("home", "stock"):
                place.remove(above, piece.checkpoint)
        shutil.rmtree(os.path.join(self._own, "node", "cache"), ignore_errors=True)

    def doing(self) -> tuple[str, float]:
        """What it does now, and for how many seconds."""
        return self._doing, time.time() - self._since

    def _is(self, doing: str) -> None:
        self._doing, self._since = doing, time.time()

    def _enter(self) -> Node:
        share = read_settings().cache_share
        node = Node(os.path.join(self._own, "node"), f"bench-{secrets.token_hex(4)}", share)
        os.makedirs(node.folder, mode=0o700, exist_ok=True)
        enter(node)
        return node

    def _home(self, tier: str) -> Store:
        return self._saver(tier, 0).home

    def _saver(self, tier: str, rank: int) -> Saver:
        if (tier, rank) not in self._savers:
            place, node = self._places[tier], self._enter()
            run = place.recipe("home").uri
            self._savers[tier, rank] = Saver(
                home=place.home(),
                threshold=1 << 62,
                writers=None if place.is_bucket else Writers(node.slots, writers_per_node(self._order.nodes)),
                cache=node.cache,
                run=run,
                journal=Journal(node.journals, run, rank),
            )
        return self._savers[tier, rank]

    def _stock_path(self, tier: str) -> StockPath:
        if tier not in self._stock:
            self._stock[tier] = StockPath(self._places[tier])
        return self._stock[tier]

    def _forget(self, place: BenchPlace, *names: str) -> None:
        if not place.is_bucket:
            forget_pages(place.recipe(*names).uri)

    def _raw_folder(self, tier: str) -> str:
        folder = self._places[tier].recipe("raw", self._order.node).uri
        os.makedirs(folder, exist_ok=True)
        return folder


def _check(read: int, expected: int) -> None:
    if read != expected:
        raise RuntimeError(f"{read} bytes came back of {expected} that were saved")
