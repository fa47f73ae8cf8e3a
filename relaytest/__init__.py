"""Tests SMTP servers for third-party relay and runs the DNS blocklist that follows from it."""

__version__ = "0.1.0"
