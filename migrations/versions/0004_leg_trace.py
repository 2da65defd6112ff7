"""The trace in which a leg was asked for, so that the worker goes on with it whenever it comes to that leg.

Revision: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE run_legs ADD COLUMN traceparent TEXT")


def downgrade() -> None:
    op.execute("ALTER TABLE run_legs DROP COLUMN traceparent")
