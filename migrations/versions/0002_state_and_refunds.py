"""The state that a run begins with, and the table of the demonstration tool.

Revision: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN initial_state JSONB")
    op.execute(
        """
        CREATE TABLE demo_refunds (
            tool_call_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            order_id TEXT NOT NULL,
            amount NUMERIC(20, 10) NOT NULL,
            created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            CONSTRAINT pk_demo_refunds PRIMARY KEY (tool_call_id)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE demo_refunds")
    op.execute("ALTER TABLE runs DROP COLUMN initial_state")
