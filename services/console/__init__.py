"""The console: the generated boards drawn without Grafana, and the pages that the alert receiver got."""
