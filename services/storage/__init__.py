"""Postgres, as the processes share it: connections and named statements."""
