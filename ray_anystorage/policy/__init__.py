"""Where a run belongs: a pure function of what was discovered and what was asked for."""

from ray_anystorage.policy.plan import Rejection, StoragePlan
from ray_anystorage.policy.request import Request
from ray_anystorage.policy.rules import decide

__all__ = ["Rejection", "Request", "StoragePlan", "decide"]
