"""Migration 2: numbers that order rows, the size of each step, and the id of the data directory."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NUMBERED = {
    "stories": ("story_id", "updated_at"),
    "branches": ("branch_id", "created_at"),
    "steps": ("step_id", "created_at"),
    "takes": ("take_id", "created_at"),
}


def upgrade() -> None:
    """Adds the columns and a table. Existing rows are numbered in the order of their times."""
    for name, (key, time) in _NUMBERED.items():
        op.add_column(name, sa.Column("number", sa.BigInteger(), nullable=False, server_default="0"))
        table = sa.table(name, sa.column(key), sa.column(time), sa.column("number"))
        found = op.get_bind().execute(sa.select(table.c[key]).order_by(table.c[time], table.c[key]))
        numbered = [{"row": row[0], "place": place} for place, row in enumerate(found.all(), start=1)]
        if numbered:
            change = table.update().where(table.c[key] == sa.bindparam("row"))
            op.get_bind().execute(change.values(number=sa.bindparam("place")), numbered)
    op.add_column("steps", sa.Column("num_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE steps SET num_bytes = LENGTH(CAST(script AS TEXT))")
    op.create_table("folders", sa.Column("folder_id", sa.String(16), primary_key=True))


def downgrade() -> None:
    """Drops the columns and the table."""
    op.drop_table("folders")
    op.drop_column("steps", "num_bytes")
    for name in _NUMBERED:
        op.drop_column(name, "number")
