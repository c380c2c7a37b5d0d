"""The hop *process*: a topic's records become effects. One process an arm: `python -m services.payments ARM`."""
