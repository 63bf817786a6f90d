"""The version of this program, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("polygon-recorder")
except PackageNotFoundError:  # run from a folder that was never installed
    VERSION = "0.0.0"
