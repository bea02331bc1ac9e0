"""The compose file of examples/kafka serves the broker that the environment `local` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from badger_k2eg.k2eg.environment import OWN_FOLDER, load_environment

COMPOSE = Path(__file__).parents[2] / "examples" / "kafka" / "compose.yaml"


def test_compose_serves_the_broker_of_the_local_environment() -> None:
    yaml = pytest.importorskip("yaml", reason="Badger brings PyYAML: pip install 'badger-k2eg[badger]'")
    broker = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["kafka"]
    local = load_environment("local", OWN_FOLDER).broker
    assert broker["environment"]["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{local}"
    assert broker["ports"] == [f"{local}:{local.rpartition(':')[2]}"]
