"""Migration 3: the pictures of references."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates a table."""
    op.create_table(
        "pictures",
        sa.Column("story_id", sa.String(16), sa.ForeignKey("stories.story_id"), primary_key=True),
        sa.Column("picture_id", sa.String(64), primary_key=True),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("outside", sa.String(400), nullable=True),
        sa.Column("image", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Drops the table."""
    op.drop_table("pictures")
