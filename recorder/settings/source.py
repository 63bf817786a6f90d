"""The settings of a process that reads them more than once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recorder.errors import ConfigError
from recorder.settings.load import Loaded, load_settings, read_env_file


class SettingsSource:
    """Environment and file of a process. The environment stays as it was at the start; the file is read each time.

    What both set alike at the start counts as the file's. A service manager that has put the lines of the file into the
    environment cannot change them there, and the file can.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._cwd = Path.cwd() if cwd is None else cwd
        found, _ = read_env_file(environ, self._cwd)
        self.file = Path(found.origin)
        """The file, whether it exists or not."""
        self._has_file = self.file.exists()
        self._environ = {name: value for name, value in environ.items() if found.values.get(name) != value}

    def load(self, *, require_key: bool = True) -> Loaded:
        """Read all settings. Raise ConfigError where they cannot be used, or the file that there was is gone."""
        if self._has_file and not self.file.exists():
            raise ConfigError(f"{self.file}: is gone")
        return load_settings(self._environ, self._cwd, require_key=require_key)

    def __repr__(self) -> str:
        return f"SettingsSource({str(self.file)!r})"
