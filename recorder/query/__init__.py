"""`recorder query`: SQL over an archive, by DuckDB."""
