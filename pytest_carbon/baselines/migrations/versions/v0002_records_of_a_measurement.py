"""Records are found by their measurement, too: a run reads those of its own tests."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("carbon_record_of", "carbon_record", ["measurement_id"])
