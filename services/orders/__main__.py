"""`python -m services.orders [PUBLISHER ARM]`."""

import sys

from services.accept.main import main
from services.domain.messages import ORDERS

if __name__ == "__main__":
    main(ORDERS, *sys.argv[1:])
