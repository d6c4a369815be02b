"""Migration 1: the tables of stories, branches, steps and takes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the four tables."""
    op.create_table(
        "stories",
        sa.Column("story_id", sa.String(16), primary_key=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("updated_at", sa.String(40), nullable=False, index=True),
        sa.Column("seed", sa.String(20), nullable=False),
        sa.Column("autoplay", sa.Boolean(), nullable=False),
        sa.Column("branch_id", sa.String(16), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
    )
    op.create_table(
        "branches",
        sa.Column("branch_id", sa.String(16), primary_key=True),
        sa.Column("story_id", sa.String(16), sa.ForeignKey("stories.story_id"), nullable=False, index=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("head_id", sa.String(16), nullable=False),
        sa.Column("tip_id", sa.String(16), nullable=False),
    )
    op.create_table(
        "steps",
        sa.Column("step_id", sa.String(16), primary_key=True),
        sa.Column("story_id", sa.String(16), sa.ForeignKey("stories.story_id"), nullable=False, index=True),
        sa.Column("parent_id", sa.String(16), nullable=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("script", sa.JSON(), nullable=False),
    )
    op.create_table(
        "takes",
        sa.Column("take_id", sa.String(16), primary_key=True),
        sa.Column("story_id", sa.String(16), sa.ForeignKey("stories.story_id"), nullable=False, index=True),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    """Drops the four tables."""
    for table in ("takes", "steps", "branches", "stories"):
        op.drop_table(table)
