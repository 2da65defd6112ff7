"""Real PostgreSQL, Redis and RabbitMQ servers, private to one test session."""

from services.postgres import PostgresServer
from services.proxy import TcpProxy
from services.rabbit import RabbitServer
from services.redis import RedisServer

__all__ = ["PostgresServer", "RabbitServer", "RedisServer", "TcpProxy"]
