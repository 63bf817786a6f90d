"""NATS as the sink and the source of that name see it. Imported where a setting names them; nats-py has its home here."""
