"""Measurements of the real command; they assert nothing about time, and no test runs them."""
