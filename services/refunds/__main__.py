"""`python -m services.refunds`."""

from services.accept.main import main
from services.domain.messages import REFUNDS

if __name__ == "__main__":
    main(REFUNDS)
