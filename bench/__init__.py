"""Latency workloads, runner and report; imported as ``delrec_lite.bench``."""
