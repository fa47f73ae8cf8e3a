"""Benchmarks: `python -m tests.bench [NAME ...] [--json FILE]`. They measure, and fail nothing.

Rule: numbers are compared within one run only. Contestants take turns, and a cell is the median
of their turns, so that a busy moment of the machine meets all alike.
"""
