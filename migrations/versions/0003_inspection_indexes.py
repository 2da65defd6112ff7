"""Indexes for looking at sessions and runs of all users, by status, newest first.

Revision: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE INDEX ix_sessions_status_updated ON sessions (status, updated_at, id)")
    op.execute("CREATE INDEX ix_runs_status_created ON runs (status, created_at, id)")


def downgrade() -> None:
    op.execute("DROP INDEX ix_runs_status_created")
    op.execute("DROP INDEX ix_sessions_status_updated")
