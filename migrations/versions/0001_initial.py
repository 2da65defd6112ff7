"""Every table of the first release, and one row for each partition.

Revision: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

PARTITIONS = 64

TABLES = (
    """
    CREATE TABLE system_agents (
        agent_type TEXT NOT NULL,
        model_code TEXT,
        llm_params JSONB DEFAULT '{}'::jsonb NOT NULL,
        prompts JSONB DEFAULT '{}'::jsonb NOT NULL,
        enabled BOOLEAN DEFAULT true NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_system_agents PRIMARY KEY (agent_type)
    )
    """,
    """
    CREATE TABLE sessions (
        id UUID NOT NULL,
        user_id TEXT NOT NULL,
        thread_id TEXT NOT NULL,
        title TEXT,
        status TEXT DEFAULT 'idle' NOT NULL,
        state_snapshot JSONB,
        state_version BIGINT DEFAULT 0 NOT NULL,
        log_epoch BIGINT DEFAULT 0 NOT NULL,
        log_seq BIGINT DEFAULT 0 NOT NULL,
        message_count BIGINT DEFAULT 0 NOT NULL,
        last_message_at TIMESTAMPTZ,
        input_tokens BIGINT DEFAULT 0 NOT NULL,
        output_tokens BIGINT DEFAULT 0 NOT NULL,
        total_tokens BIGINT DEFAULT 0 NOT NULL,
        cost NUMERIC(20, 10) DEFAULT 0 NOT NULL,
        unpriced_calls BIGINT DEFAULT 0 NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        deleted_at TIMESTAMPTZ,
        CONSTRAINT pk_sessions PRIMARY KEY (id),
        CONSTRAINT uq_sessions_user_id_thread_id UNIQUE (user_id, thread_id)
    )
    """,
    "CREATE INDEX ix_sessions_user_updated ON sessions (user_id, updated_at, id)",
    """
    CREATE TABLE messages (
        session_id UUID NOT NULL,
        seq BIGINT NOT NULL,
        message_id TEXT NOT NULL,
        run_id UUID,
        role TEXT NOT NULL,
        content JSONB,
        tool_calls JSONB,
        tool_call_id TEXT,
        name TEXT,
        withdrawn BOOLEAN DEFAULT false NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_messages PRIMARY KEY (session_id, seq),
        CONSTRAINT uq_messages_session_id_message_id UNIQUE (session_id, message_id),
        CONSTRAINT fk_messages_session_id_sessions FOREIGN KEY (session_id)
            REFERENCES sessions (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_messages_run_id ON messages (run_id)",
    """
    CREATE TABLE runs (
        id UUID NOT NULL,
        user_id TEXT NOT NULL,
        client_run_id TEXT NOT NULL,
        session_id UUID NOT NULL,
        agent_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        input JSONB NOT NULL,
        config JSONB NOT NULL,
        status TEXT NOT NULL,
        leg BIGINT DEFAULT 1 NOT NULL,
        error_code TEXT,
        error_message TEXT,
        result JSONB,
        deadline TIMESTAMPTZ,
        cancel_by TIMESTAMPTZ,
        calls BIGINT DEFAULT 0 NOT NULL,
        input_tokens BIGINT DEFAULT 0 NOT NULL,
        output_tokens BIGINT DEFAULT 0 NOT NULL,
        total_tokens BIGINT DEFAULT 0 NOT NULL,
        cost NUMERIC(20, 10) DEFAULT 0 NOT NULL,
        unpriced_calls BIGINT DEFAULT 0 NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        started_at TIMESTAMPTZ,
        ended_at TIMESTAMPTZ,
        CONSTRAINT pk_runs PRIMARY KEY (id),
        CONSTRAINT uq_runs_user_id_client_run_id UNIQUE (user_id, client_run_id),
        CONSTRAINT fk_runs_session_id_sessions FOREIGN KEY (session_id)
            REFERENCES sessions (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_runs_live ON runs (deadline)
    WHERE status IN ('queued', 'running', 'awaiting_input', 'cancelling')
    """,
    "CREATE INDEX ix_runs_session_id_created_at ON runs (session_id, created_at)",
    """
    CREATE TABLE run_legs (
        run_id UUID NOT NULL,
        leg BIGINT NOT NULL,
        user_id TEXT NOT NULL,
        client_run_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        first_epoch BIGINT,
        last_epoch BIGINT,
        last_seq BIGINT,
        history_seq BIGINT,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        ended_at TIMESTAMPTZ,
        CONSTRAINT pk_run_legs PRIMARY KEY (run_id, leg),
        CONSTRAINT uq_run_legs_user_id_client_run_id_run_id_leg UNIQUE (user_id, client_run_id, run_id, leg),
        CONSTRAINT fk_run_legs_run_id_runs FOREIGN KEY (run_id)
            REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE run_attempts (
        attempt_id UUID NOT NULL,
        run_id UUID NOT NULL,
        session_id UUID NOT NULL,
        leg BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        process TEXT NOT NULL,
        outcome TEXT,
        started_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        ended_at TIMESTAMPTZ,
        CONSTRAINT pk_run_attempts PRIMARY KEY (attempt_id),
        CONSTRAINT uq_run_attempts_session_id_epoch UNIQUE (session_id, epoch),
        CONSTRAINT fk_run_attempts_run_id_runs FOREIGN KEY (run_id)
            REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_run_attempts_run_id ON run_attempts (run_id)",
    """
    CREATE TABLE run_steps (
        run_id UUID NOT NULL,
        key TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        position BIGINT NOT NULL GENERATED BY DEFAULT AS IDENTITY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        tool_call_id TEXT,
        status TEXT NOT NULL,
        result JSONB,
        error TEXT,
        begun_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        recorded_at TIMESTAMPTZ,
        CONSTRAINT pk_run_steps PRIMARY KEY (run_id, key, epoch),
        CONSTRAINT fk_run_steps_run_id_runs FOREIGN KEY (run_id)
            REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE llm_calls (
        run_id UUID NOT NULL,
        key TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        session_id UUID NOT NULL,
        stage TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        status TEXT NOT NULL,
        input_tokens BIGINT DEFAULT 0 NOT NULL,
        output_tokens BIGINT DEFAULT 0 NOT NULL,
        cached_tokens BIGINT DEFAULT 0 NOT NULL,
        reasoning_tokens BIGINT DEFAULT 0 NOT NULL,
        cost NUMERIC(20, 10),
        estimated BOOLEAN DEFAULT false NOT NULL,
        first_token_ms BIGINT,
        latency_ms BIGINT,
        begun_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        ended_at TIMESTAMPTZ,
        CONSTRAINT pk_llm_calls PRIMARY KEY (run_id, key, epoch),
        CONSTRAINT fk_llm_calls_run_id_runs FOREIGN KEY (run_id)
            REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_llm_calls_session_id ON llm_calls (session_id)",
    """
    CREATE TABLE event_segments (
        session_id UUID NOT NULL,
        epoch BIGINT NOT NULL,
        first_seq BIGINT NOT NULL,
        last_seq BIGINT NOT NULL,
        run_id UUID NOT NULL,
        leg BIGINT NOT NULL,
        closing BOOLEAN DEFAULT false NOT NULL,
        lines TEXT NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_event_segments PRIMARY KEY (session_id, epoch, first_seq),
        CONSTRAINT fk_event_segments_session_id_sessions FOREIGN KEY (session_id)
            REFERENCES sessions (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE outbox (
        id UUID NOT NULL,
        kind TEXT NOT NULL,
        partition BIGINT NOT NULL,
        session_id UUID NOT NULL,
        run_id UUID,
        user_id TEXT NOT NULL,
        payload JSONB NOT NULL,
        sends BIGINT DEFAULT 0 NOT NULL,
        due_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_outbox PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_outbox_due_at ON outbox (due_at)",
    "CREATE INDEX ix_outbox_run_id ON outbox (run_id)",
    "CREATE INDEX ix_outbox_session_id ON outbox (session_id)",
    """
    CREATE TABLE processes (
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        host TEXT NOT NULL,
        slots BIGINT DEFAULT 0 NOT NULL,
        attempts JSONB DEFAULT '[]'::jsonb NOT NULL,
        started_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        beat_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_processes PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE partitions (
        partition BIGINT NOT NULL,
        owner TEXT,
        partition_epoch BIGINT DEFAULT 0 NOT NULL,
        taken_at TIMESTAMPTZ,
        CONSTRAINT pk_partitions PRIMARY KEY (partition)
    )
    """,
    """
    CREATE TABLE audit_log (
        id UUID NOT NULL,
        at TIMESTAMPTZ DEFAULT now() NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        session_id UUID,
        run_id UUID,
        subject TEXT,
        details JSONB DEFAULT '{}'::jsonb NOT NULL,
        CONSTRAINT pk_audit_log PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_audit_log_session_id ON audit_log (session_id)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    op.execute(f"INSERT INTO partitions (partition) SELECT generate_series(0, {PARTITIONS - 1})")


def downgrade() -> None:
    # Referring tables first.
    for table in (
        "audit_log",
        "partitions",
        "processes",
        "outbox",
        "event_segments",
        "llm_calls",
        "run_steps",
        "run_attempts",
        "run_legs",
        "messages",
        "runs",
        "sessions",
        "system_agents",
    ):
        op.execute(f"DROP TABLE {table}")
