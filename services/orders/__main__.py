"""`python -m services.orders`."""

from services.accept.main import main
from services.domain.messages import ORDERS

if __name__ == "__main__":
    main(ORDERS)
