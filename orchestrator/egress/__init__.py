"""The only way out of a runner: one unix socket per room to the API gateway."""
