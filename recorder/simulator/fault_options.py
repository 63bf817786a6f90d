"""The options of a fault, as they are written: `after=1000,for=5s,pings=no`."""

from __future__ import annotations

from recorder.errors import ConfigError
from recorder.units import read_duration


def split_options(fault: str, options: str) -> dict[str, str]:
    """Return the options of a fault by name. Raise `ConfigError` where one has no value."""
    values: dict[str, str] = {}
    for option in filter(None, (part.strip() for part in options.split(","))):
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"fault {fault!r}: options are written name=value, not {option!r}")
        values[name.strip()] = value.strip()
    return values


class Options:
    """The options of one fault, taken out by name."""

    def __init__(self, text: str, values: dict[str, str]) -> None:
        self.text = text
        self._values = values

    def number(self, name: str, default: int) -> int:
        """Take a whole number."""
        value = self._values.pop(name, str(default))
        if not value.isdecimal():
            raise self.error(f"{name} must be a whole number, not {value!r}")
        return int(value)

    def secs(self, name: str, default: float) -> float:
        """Take a duration such as `500ms`, `5s`, `1m`, in seconds."""
        value = self._values.pop(name, None)
        if value is None:
            return default
        try:
            secs = float(read_duration(value))
        except ValueError:
            secs = -1.0
        if secs < 0:
            raise self.error(f"{name} must be a duration such as 500ms, 5s or 1m, not {value!r}")
        return secs

    def flag(self, name: str, default: bool) -> bool:
        """Take `yes` or `no`."""
        value = self._values.pop(name, "yes" if default else "no")
        if value not in ("yes", "no"):
            raise self.error(f"{name} must be yes or no, not {value!r}")
        return value == "yes"

    def words(self, name: str) -> tuple[str, ...]:
        """Take words with `+` between them; at least one."""
        words = tuple(filter(None, self._values.pop(name, "").split("+")))
        if not words:
            raise self.error(f"{name} is missing; several are joined by +")
        return words

    def after(self) -> tuple[int, float]:
        """Take `after`: events and seconds, one of which is 0."""
        if self._values.get("after", "0").isdecimal():
            return self.number("after", 0), 0.0
        return 0, self.secs("after", 0.0)

    def finish(self) -> None:
        """Make sure that nothing is left."""
        if self._values:
            raise self.error(f"it has no option {', '.join(self._values)}")

    def error(self, problem: str) -> ConfigError:
        """Return the error that says what is wrong with which fault."""
        return ConfigError(f"fault {self.text!r}: {problem}")
