"""The services a single machine needs, brought along: PostgreSQL, Valkey and an AMQP broker as supervised children."""
