"""Runs static Linux programs on a guest kernel of this project's own, the Sentry."""
