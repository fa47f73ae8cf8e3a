"""The whole system under faults and floods, and a count of everything at the end.

    python -m tests.soak [--targets N] [--minutes N] [--json FILE]        # or: make soak

Everything is on the loopback, bounded, and ends by itself.
"""
