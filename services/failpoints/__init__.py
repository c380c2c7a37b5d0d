"""Failpoints: named places, one in each dangerous gap, where a fault can be armed. Off unless the lab allows faults."""

from services.failpoints.client import Failpoints, InjectedError
from services.failpoints.names import FAILPOINTS, Failpoint

__all__ = ["FAILPOINTS", "Failpoint", "Failpoints", "InjectedError"]
