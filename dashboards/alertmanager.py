"""What Alertmanager does with an alert: at once, each on its own, to the console, which keeps what it received."""

from typing import Any, Final

from dashboards.layout import CONSOLE

# group_by '...': every alert is a group of its own, so that a second loss waits for nobody's interval.
# Watchdog is sent rarely: it says that the road is open, and shall not fill the page.
CONFIGURATION: Final[dict[str, Any]] = {
    "route": {
        "receiver": "console",
        "group_by": ["..."],
        "group_wait": "0s",
        "group_interval": "1s",
        "repeat_interval": "1h",
    },
    "receivers": [
        {"name": "console", "webhook_configs": [{"url": f"{CONSOLE}/api/alerts", "send_resolved": True}]},
    ],
}
