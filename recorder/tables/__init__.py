"""An archive as SQL has it: its sealed segments, proven; views over them; DuckDB, locked in with these files."""
