"""Every option of the program, and the only reader of its environment."""

from recorder.settings.kafka import KafkaSettings
from recorder.settings.load import (
    Loaded,
    SettingsError,
    environ_without_settings,
    load_settings,
    store_environ,
)
from recorder.settings.model import OPTIONS, VARIABLES, Settings
from recorder.settings.nats import NatsSettings
from recorder.settings.option import Section
from recorder.settings.render import render_effective, render_env_example, render_markdown
from recorder.settings.sections import (
    AccessLogSettings,
    ArchiveSettings,
    BarSettings,
    ClientLimits,
    DemandSettings,
    LogSettings,
    MarketHoursSettings,
    OpsSettings,
    RecordSettings,
    ServersSettings,
    UpstreamSettings,
    WorkerSettings,
    ZmqSettings,
)
from recorder.settings.source import SettingsSource

__all__ = [
    "OPTIONS",
    "VARIABLES",
    "AccessLogSettings",
    "ArchiveSettings",
    "BarSettings",
    "ClientLimits",
    "DemandSettings",
    "KafkaSettings",
    "Loaded",
    "LogSettings",
    "MarketHoursSettings",
    "NatsSettings",
    "OpsSettings",
    "RecordSettings",
    "Section",
    "ServersSettings",
    "Settings",
    "SettingsError",
    "SettingsSource",
    "UpstreamSettings",
    "WorkerSettings",
    "ZmqSettings",
    "environ_without_settings",
    "load_settings",
    "render_effective",
    "render_env_example",
    "render_markdown",
    "store_environ",
]
