"""Benchmarks: rounds of the lab's own services and of a simple anchor by turns, in one run, on servers of their own.

Machines differ and are noisy; the ratio of two works done a moment apart, and the CPU time a message, are not.
"""
