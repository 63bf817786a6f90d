"""`recorder clickhouse`: an archive as tables of a ClickHouse server, each record once."""
