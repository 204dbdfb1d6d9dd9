"""Change data capture from MySQL and MariaDB, exactly once into PostgreSQL, MySQL and MariaDB."""

__version__ = "0.1.0"
