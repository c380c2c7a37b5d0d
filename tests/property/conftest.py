"""Properties hold at every pace: an example, or its making, may take as long as a busy machine needs."""

from hypothesis import HealthCheck, settings

settings.register_profile("any pace", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")
