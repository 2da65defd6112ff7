"""Runs name their configuration by its digest; a commit's statement can refuse itself.

Revision: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE pinned_configs (
            digest TEXT NOT NULL,
            config JSONB NOT NULL,
            created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            CONSTRAINT pk_pinned_configs PRIMARY KEY (digest)
        )
        """
    )
    op.execute("ALTER TABLE runs ADD COLUMN config_digest TEXT, ALTER COLUMN config DROP NOT NULL")
    op.execute(
        """
        CREATE FUNCTION callboard_refuse(why TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'CB001', MESSAGE = why; END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION callboard_refuse(TEXT)")
    op.execute(
        "UPDATE runs SET config = pinned_configs.config FROM pinned_configs "
        "WHERE runs.config IS NULL AND pinned_configs.digest = runs.config_digest"
    )
    op.execute("ALTER TABLE runs ALTER COLUMN config SET NOT NULL, DROP COLUMN config_digest")
    op.execute("DROP TABLE pinned_configs")
