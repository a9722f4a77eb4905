"""Asks all hosts what a run would find there: ``doctor.py SECONDS`` for values, ``doctor.py table`` for people."""

from __future__ import annotations

import json
import os
import sys

import ray

import ray_anystorage as anystorage
from ray_anystorage.cli.main import main

if __name__ == "__main__":
    if sys.argv[1] == "table":
        main(["doctor", "--cluster"])
    else:
        ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
        report = anystorage.doctor(cluster=True, timeout=float(sys.argv[1]))
        print("REPORT", json.dumps(report.to_dict()))
