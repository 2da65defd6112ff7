"""An index to find the runs whose time is over. Made while others write: it locks nobody out.

Revision: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_runs_ended_at ON runs (ended_at)")


def downgrade() -> None:
    op.execute("DROP INDEX ix_runs_ended_at")
