"""Fuzzing: `python -m tests.fuzz [TARGET ...] [--seconds N]`. Bounded in time; fails on a find.

A target is a strategy that makes inputs and a check that must hold for each of them. The checks
know the rules only, and decide with code of their own what is right. pytest runs a few hundred
inputs of each, always the same ones; here they are new ones in every run, and what failed once
is tried first ever after. Where atheris is installed half of the time is led by coverage.
"""
