"""Commands that are too large for a message wait here for their session's actor.

Revision: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE command_claims (
            id UUID PRIMARY KEY,
            session_id UUID NOT NULL,
            body BYTEA NOT NULL,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX ix_command_claims_session_id ON command_claims (session_id)")


def downgrade() -> None:
    op.execute("DROP TABLE command_claims")
