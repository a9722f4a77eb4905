"""One save or restore in a fresh process, so that its CPU time and memory are its own.

Reads one line of JSON (``client``, ``operation``, ``source``, ``goal``, ``target``), makes the client, writes
its settings and waits for a second line. Then it does the work and writes what it took.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time

from benchmarks.target import Target


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    # Whatever a library prints must not get into the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    client = importlib.import_module(f"benchmarks.clients.{order['client']}").Client(Target(**order["target"]))
    work = getattr(client, order["operation"])
    durable = client.DURABLE and order["operation"] == "save"
    print(json.dumps({"settings": client.SETTINGS, "durable": durable}), file=answers, flush=True)
    sys.stdin.readline()
    cpu, start = _cpu(), time.perf_counter()
    work(order["source"], order["goal"])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cpu": _cpu() - cpu}), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # what a library still has running is not waited for


if __name__ == "__main__":
    main()
