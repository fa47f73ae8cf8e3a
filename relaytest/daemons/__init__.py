"""The daemons: loops, waits, logs and the clock. They meet in the database only."""
