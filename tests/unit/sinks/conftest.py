"""Hypothesis without deadlines: the machine is shared with database servers, and a slow draw says nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")
