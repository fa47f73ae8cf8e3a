"""PostgreSQL: one module for each table group; each statement beside the function that runs it."""
