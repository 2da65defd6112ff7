"""Deliveries to webhooks: written with what they tell, kept as a log once they ended.

Revision: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE webhook_deliveries (
            id UUID PRIMARY KEY,
            event_id UUID NOT NULL,
            endpoint UUID NOT NULL,
            url TEXT NOT NULL,
            type TEXT NOT NULL,
            session_id UUID NOT NULL,
            run_id UUID NOT NULL,
            body JSONB,
            attempts BIGINT NOT NULL DEFAULT 0,
            last_status BIGINT,
            last_error TEXT,
            due_at TIMESTAMPTZ NOT NULL DEFAULT now(),
            attempted_at TIMESTAMPTZ,
            delivered_at TIMESTAMPTZ,
            given_up_at TIMESTAMPTZ,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now()
        )
    """)
    op.execute("""
        CREATE INDEX ix_webhook_deliveries_open ON webhook_deliveries (endpoint, due_at)
        WHERE delivered_at IS NULL AND given_up_at IS NULL
    """)
    op.execute("CREATE INDEX ix_webhook_deliveries_created_at ON webhook_deliveries (created_at)")
    op.execute("CREATE INDEX ix_webhook_deliveries_session_id ON webhook_deliveries (session_id)")


def downgrade() -> None:
    op.execute("DROP TABLE webhook_deliveries")
