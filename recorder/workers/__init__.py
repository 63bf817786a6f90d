"""Further processes that serve clients, fed by the recording process (`SERVE_WORKERS`)."""
