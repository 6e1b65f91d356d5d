"""Suites that this project did not write, natively and on the Sentry."""
