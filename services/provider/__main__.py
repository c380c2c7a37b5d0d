"""`python -m services.provider`: the composition root of the third party."""

import uvloop

from services.bootstrap import start_process
from services.http.database import Database
from services.http.serving import make_app, serve
from services.provider.api import make_routes
from services.provider.openapi import describe
from services.provider.store import Books


def main() -> None:
    """Serve charges and emails until asked to end."""
    process = start_process()
    settings = process.settings
    database = Database(settings.ledger, "provider", process=settings.process, size=settings.pool_size)
    books = Books(database, settings.key_lifetime_s)
    routes = make_routes(books, process.failpoints, process.metrics, process.log)
    uvloop.run(serve(process, make_app(routes, database, describe()), database))


if __name__ == "__main__":
    main()
