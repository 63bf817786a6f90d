"""`recorder export`: Parquet files of an archive, made segment by segment: a tree that others read as one table."""
