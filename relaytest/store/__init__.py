"""PostgreSQL: one module a table group; each statement beside the function that runs it."""
