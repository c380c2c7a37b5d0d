"""`python -m dashboards.screenshots [FOLDER]`: a picture of every board and of the pages received, from a running lab.

Wants Chromium (a Debian package) and Playwright's Python package, which is of the development environment.
"""

import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

from dashboards.boards import BOARDS
from services.stack.client import status
from services.stack.home import Home

CHROMIUM: Final = "/usr/bin/chromium"
FOLDER: Final = Path(__file__).parents[1] / "docs" / "boards"
OPTIONS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
SIZE: Final = {"width": 1600, "height": 1000}
DRAWN_MS: Final = 20_000


def take(url: str, folder: Path, query: str = "range=5m") -> list[str]:
    """Pictures by the boards' uids; returns what the pages complained of."""
    folder.mkdir(parents=True, exist_ok=True)
    complaints: list[str] = []
    pages = {board()["uid"]: f"/d/{board()['uid']}?{query}" for board in BOARDS} | {"received": "/received"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_context(viewport=SIZE, color_scheme="dark").new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for name, path in pages.items():
            page.goto(url + path)
            page.wait_for_selector("main[data-drawn]", timeout=DRAWN_MS)
            page.wait_for_timeout(300)  # fonts and the last resize
            page.screenshot(path=folder / f"{name}.png", full_page=True)
            complaints += [f"{name}: {text}" for text in page.locator(".message.bad").all_inner_texts()]
        browser.close()
    return complaints


def main(arguments: list[str]) -> None:
    """Take them from the lab of the environment. Exit code 1 when a page complained."""
    urls = status(Home.from_environment())["urls"]
    if "console" not in urls:
        sys.exit("the lab is not up, or has no console: `lab up`")
    complaints = take(urls["console"], Path(arguments[0]) if arguments else FOLDER)
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
