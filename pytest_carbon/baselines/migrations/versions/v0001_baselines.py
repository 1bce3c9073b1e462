"""Make the tables as they are declared; from the first release on, this file has to spell them out."""

from alembic import op

from pytest_carbon.baselines.tables import METADATA

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    METADATA.create_all(op.get_bind())
