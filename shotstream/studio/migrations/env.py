"""Alembic's environment: runs the migrations on the connection that `Database.upgrade` passes."""

from alembic import context

from shotstream.studio.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
