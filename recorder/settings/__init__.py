"""Every option of the program, and the only reader of its environment."""

from recorder.settings.load import Loaded, load_settings
from recorder.settings.model import VARIABLES, Settings
from recorder.settings.render import render_effective, render_env_example, render_markdown
from recorder.settings.sections import (
    ArchiveSettings,
    LogSettings,
    OpsSettings,
    RecordSettings,
    UpstreamSettings,
)

__all__ = [
    "VARIABLES",
    "ArchiveSettings",
    "Loaded",
    "LogSettings",
    "OpsSettings",
    "RecordSettings",
    "Settings",
    "UpstreamSettings",
    "load_settings",
    "render_effective",
    "render_env_example",
    "render_markdown",
]
