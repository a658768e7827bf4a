"""What tests of evaluation share."""

from importlib import import_module

import pytest


@pytest.fixture(autouse=True)
def quick_classifier(monkeypatch):
    """Has the classifier take few steps with few channels: programs of tests are unoptimized."""
    module = import_module("ddpm_jax.evaluation.features.classifier")
    quick = module.Settings(channels=(8, 8), least_steps=60, most_steps=60, batch_size=16)
    monkeypatch.setattr(module, "SETTINGS", quick)
