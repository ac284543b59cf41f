"""A small network, a short schedule and the command line, for the tests of training."""

from __future__ import annotations

from typer.testing import CliRunner

from numeric.baselines.configs import NetworkConfig
from numeric.baselines.schedule import Schedule
from numeric.commands.app import app

SMALL = NetworkConfig("2blocks_noattn", base_channels=8, channel_mult=(1, 2))
SCHEDULE = Schedule(steps=12, batch_size=4, learning_rate=1e-3)


def run_cli(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])
