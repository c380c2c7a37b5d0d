"""The composition root of the producers."""

import uvloop

from services.accept.api import make_routes
from services.accept.openapi import describe
from services.accept.store import Intents
from services.bootstrap import start_process
from services.domain.messages import Kind
from services.http.database import Database
from services.http.serving import make_app, serve


def main(kind: Kind) -> None:
    """Serve one kind's requests until asked to end."""
    process = start_process()
    settings = process.settings
    database = Database(settings.postgres, kind.name, process=settings.process, size=settings.pool_size)
    routes = make_routes(kind, process, Intents(database))
    uvloop.run(serve(process, make_app(routes, database, describe(kind)), database))
