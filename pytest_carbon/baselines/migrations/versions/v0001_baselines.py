"""Baselines: machines, the measurements and the sessions of each, their figures and the cards they were made on."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "carbon_machine",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("header", sa.Text),
        sa.Column("calibration", sa.Text),
        sa.UniqueConstraint("name", name="carbon_machine_once"),
    )
    op.create_table(
        "carbon_measurement",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("carbon_machine.id"), nullable=False),
        sa.Column("test", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.UniqueConstraint("machine_id", "test", "name", name="carbon_measurement_once"),
    )
    op.create_table(
        "carbon_session",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("machine_id", sa.Integer, sa.ForeignKey("carbon_machine.id"), nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("created", sa.Text, nullable=False),
        sa.Column("boot", sa.Text),
        sa.Column("commit_id", sa.Text),
        sa.Column("branch", sa.Text),
        sa.Column("torch", sa.Text),
        sa.Column("driver", sa.Text),
        sa.Column("labels", sa.Text),
        sa.UniqueConstraint("machine_id", "session", name="carbon_session_once"),
    )
    op.create_table(
        "carbon_cards",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuids", sa.Text, nullable=False),
        sa.UniqueConstraint("uuids", name="carbon_cards_once"),
    )
    op.create_table(
        "carbon_record",
        sa.Column("session_id", sa.Integer, sa.ForeignKey("carbon_session.id"), primary_key=True),
        sa.Column("measurement_id", sa.Integer, sa.ForeignKey("carbon_measurement.id"), primary_key=True),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("energy_j_per_call", sa.Double, nullable=False),
        sa.Column("energy_j_per_call_error", sa.Double),
        sa.Column("duration_s_per_call", sa.Double, nullable=False),
        sa.Column("temperature_c", sa.Double),
        sa.Column("cards_id", sa.Integer, sa.ForeignKey("carbon_cards.id")),
        sqlite_with_rowid=False,
    )
    op.create_index("carbon_record_of", "carbon_record", ["measurement_id"])  # a run reads those of its own tests
