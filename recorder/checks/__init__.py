"""`recorder check`: looks at everything that recording needs before it is needed, and harms nothing by looking."""
