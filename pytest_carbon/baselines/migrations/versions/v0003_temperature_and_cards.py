"""Records keep the temperature of the GPU and the cards they were made on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "carbon_cards",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuids", sa.Text, nullable=False),
        sa.UniqueConstraint("uuids", name="carbon_cards_once"),
    )
    op.add_column("carbon_record", sa.Column("temperature_c", sa.Double))
    # as text: of SQLite, alembic adds no column that refers to a table, though SQLite itself does
    op.execute("ALTER TABLE carbon_record ADD COLUMN cards_id INTEGER REFERENCES carbon_cards (id)")
