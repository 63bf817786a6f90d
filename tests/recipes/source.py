"""A source: a package beside the recorder, which publishes frames, and an entry point."""

from __future__ import annotations

from recipes import New, Recipe

RECIPE = Recipe(
    "a source",
    (
        New(
            "recorder-frames/pyproject.toml",
            """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "recorder-frames"
version = "0.1.0"
dependencies = ["polygon-recorder"]

[project.entry-points."recorder.sources"]
frames = "recorder_frames:make_source"
""",
        ),
        New(
            "recorder-frames/recorder_frames.py",
            '''\
"""SOURCE=frames: every line of FRAMES_PATH is a frame, a JSON array of events."""

import asyncio
from pathlib import Path

from recorder.errors import ConfigError
from recorder.sources.source import SourceContext


class FramesSource:
    def __init__(self, path: Path, context: SourceContext) -> None:
        self.name = f"frames {context.cluster}"
        self._path = path
        self._context = context

    async def open(self) -> None:
        if not self._path.is_file():
            raise ConfigError(f"FRAMES_PATH: {self._path} is not a file")

    async def run(self) -> None:
        session = self._context.session()
        session.open()
        try:
            with self._path.open("rb") as lines:
                for line in lines:
                    session.publish([line.rstrip()])
                    await asyncio.sleep(0)  # lets the sinks and clients have their turn
        finally:
            session.close("end of file")

    async def close(self, deadline_ns: int) -> None:
        """Nothing is held between two calls of `run`."""


def make_source(context: SourceContext) -> FramesSource:
    path = context.environ.get("FRAMES_PATH")
    if not path:
        raise ConfigError("FRAMES_PATH: must be set: SOURCE=frames reads it")
    return FramesSource(Path(path), context)
''',
        ),
    ),
)
