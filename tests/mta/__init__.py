"""Real mail and DNS servers for tests: fetched, started with a private configuration, stopped."""
